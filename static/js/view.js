// Paints the face that fits the state: section, words, title, focus.
import { app, face, left, now } from './state.js';
import { all, at, put, say, show } from './dom.js';
import { has, moment, parts, t } from './i18n.js';
import { drawCode, drawQr, tickCode } from './code.js';
import { askButtons } from './form.js';

const OTHER_NUMBER = ['RECONNECTING', 'REPLACED', 'BANNED', 'LOCKED', 'FAILED'];
// Nobody has to hurry: it passes by itself, or there is another way.
const MILD = ['RECONNECTING', 'AWAITING_SCAN', 'OUTDATED', 'PASSKEY_REQUIRED'];
// How far one is on the way from a number to a link.
const WAY = { unlinked: 0, connecting: 1, code: 1, over: 1, linking: 2 };
const ICON = { linked: '-good', trouble: '-bad', noserver: '-bad' };
// What a face says itself.
const TOLD = /^(CODE_NOT|PASSKEY|CLIENT_OUT|LOGGED|REPLACED|BANNED|LOCKED|HALF)/;
const main = at('main');
let shown = 'connecting';

export const stateWord = (state) => (has(`s.${state}`) ? t(`s.${state}`) : parts(`x.${state}`)[0]);

export function paint() {
	const { status, error } = app;
	const which = face();
	main.dataset.face = which;
	main.dataset.state = status?.state || '';
	for (const section of all('[data-for]')) section.hidden = section.dataset.for !== which.replace('noserver', 'trouble');
	put('salon-name', app.auth && (app.sessions.length > 1 || status?.name) ? status?.name || app.session : '');
	show('logout', app.auth);
	show('more', app.auth);
	const step = status ? WAY[which] : undefined;
	show('way', step >= 0);
	all('#way li').forEach((one, n) => {
		one.className = n < step ? 'done' : '';
		one.ariaCurrent = n === step ? 'step' : null;
	});
	put('notice', app.auth && app.lostAt ? t('lost') : '');
	show('error', error && !(which === 'trouble' && TOLD.test(error.code)));
	put('error-text', error?.message);
	show('relink', error?.code === 'ALREADY_LINKED' && error.linkId && app.typed);
	painters[which]?.(status);
	if (which !== 'code') drawCode('');
	qr(which);
	askButtons();
	const words = main.querySelector('section:not([hidden]) h2').textContent;
	const told = status && !/login|over|noserver/.test(which) ? stateWord(status.state) : words;
	document.title = `${told} · ${at('salon-name').textContent || 'Hairpin'}`;
	const icon = `/icon${ICON[which] || ''}.svg`;
	if (at('icon').getAttribute('href') !== icon) at('icon').href = icon;
	focus(which, words);
}

const painters = {
	unlinked({ state, reason }) {
		show('back', app.wantForm);
		// Unlinked here, while WhatsApp could not be told.
		put('unlinked-why', state === 'UNLINKED' && reason === 'HALF_LINKED' ? parts('x.HALF_LINKED')[2] : '');
	},
	connecting(status) {
		show('busy', true);
		const asking = status && !app.stopping;
		put('connecting-h', t(asking ? 'asking.h' : 'wait'));
		put('connecting-p', asking ? t('asking.p') : '');
		show('stop', asking);
	},
	code({ phone }) {
		const { code } = app;
		put('code-for', t('code.for', { phone: code.phone || phone }));
		const note = app.swapped ? t('ended.superseded') : replaced(code.replaced);
		show('replaced', note);
		put('replaced', note);
		drawCode(code.text, note);
		tickCode();
	},
	over() {
		put('over-h', t(`ended.${app.ended}`));
	},
	linked({ phone, since, lastConnected }) {
		put('linked-phone', phone);
		put('linked-since', moment(since));
		show('linked-last-row', lastConnected);
		put('linked-last', lastConnected && moment(lastConnected));
	},
	noserver() {
		painters.trouble({ state: 'NO_SERVER' });
	},
	trouble({ state, until, phone, reason }) {
		const [h, what, advice, action = t('retry')] = parts(`x.${state}`);
		at('badge').className = `badge ${MILD.includes(state) ? 'warn' : 'bad'}`;
		put('trouble-h', h);
		put('trouble-what', what);
		put('trouble-do', advice);
		put('trouble-action', action);
		put('trouble-phone', state === 'AWAITING_SCAN' ? '' : phone || '');
		put('trouble-until', state === 'BANNED' && until ? t('x.until', { when: moment(until) }) : '');
		put('trouble-code', state === 'FAILED' ? reason || '' : '');
		show('trouble-other', OTHER_NUMBER.includes(state));
	},
};

function replaced(old) {
	if (!old) return '';
	const kind = old.reason === 'stale_credentials' ? 'stale' : old.wasLinked ? 'linked' : 'unfinished';
	return t(`replaced.${kind}`, { phone: old.oldPhone || t('replaced.unknown') });
}

function qr(which) {
	const place = main.querySelector(`[data-for=${which}] .qr-place`);
	const wanted = place && (app.code || app.status.state === 'AWAITING_SCAN') && left(app.qrUntil);
	const drawn = drawQr(wanted ? app.qr : null);
	if (drawn && at('qr-box').parentNode !== place) place.append(at('qr-box'));
	show('qr-box', drawn);
}

// A new face takes the focus, unless somebody is busy elsewhere.
function focus(next, words) {
	if (next === shown) return;
	shown = next;
	const active = document.activeElement;
	if (active !== document.body && !main.contains(active)) return say(words);
	const field = { login: 'access-key', unlinked: 'phone', over: 'new-code' }[next];
	const goal = field ? at(field) : main.querySelector('section:not([hidden]) h2');
	if (!field) goal.tabIndex = -1;
	goal.focus();
	scrollTo(0, 0);
	if (next === 'over') say(words);
}

export function tick() {
	// The server counts in whole seconds too, and says itself when it is over; if not, the page does.
	if (app.code && now() >= app.code.until + 1000) {
		app.code = null;
		app.ended = 'expired';
		return paint();
	}
	if (main.dataset.face !== face() || (app.qr && !left(app.qrUntil) && !at('qr-box').hidden)) return paint();
	if (main.dataset.face === 'code' && app.code) tickCode();
	askButtons();
}
