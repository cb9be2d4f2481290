// What the page knows at this moment, and which face that means.
const NOTHING = {
	status: null, // the last session-status
	code: null, // { text, phone, until, expiresAt, total, replaced }
	ended: null, // why the last code ended
	swapped: false, // somebody else asked for another number's
	qr: null, // the server's SVG text
	qrUntil: Infinity,
	pending: '', // asked, and no answer yet: 'new' or 'replace' (or the door: true)
	stopping: false, // asked to stop asking
	wantForm: false, // the number field in any state
	typed: null, // { number, country }
	error: null, // { code, message, linkId }
	hold: 0, // asking again is pointless until then
};

export const app = {
	...NOTHING,
	auth: null, // null: not known yet
	session: 'salon',
	sessions: [],
	lostAt: 0, // since when the socket is gone
};

export const forget = () => Object.assign(app, NOTHING);
export const now = () => performance.now();
export const left = (until) => Math.max(0, Math.ceil((until - now()) / 1000));

let paint;
let soon;

export const onChange = (painter) => { paint = painter; };

// Paints soon, once for all that arrives together.
export function changed() {
	soon ||= setTimeout(() => {
		soon = 0;
		paint();
	}, 30);
}

export function face() {
	const state = app.status?.state;
	const among = (...states) => states.includes(state);
	if (app.auth === false) return 'login';
	if (app.lostAt && now() - app.lostAt > 2500) return 'noserver';
	if (!state) return 'connecting';
	if (app.pending === 'replace') return 'connecting';
	if (app.wantForm) return 'unlinked';
	if (app.code && among('UNLINKED', 'CONNECTING', 'AWAITING_CODE_ENTRY')) return 'code';
	if (app.ended && among('UNLINKED', 'AWAITING_CODE_ENTRY')) return 'over';
	// The code follows its state at once.
	return { UNLINKED: 'unlinked', CONNECTING: 'connecting', AWAITING_CODE_ENTRY: 'connecting', LINKING: 'linking', CONNECTED: 'linked' }[state] || 'trouble';
}
