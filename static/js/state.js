// What the page knows at this moment, and the one way to say that it changed. Nothing here touches the document.
export const app = {
  auth: null, // null: not known yet
  session: 'salon',
  sessions: [],
  status: null, // the last session-status of this session
  statusAt: 0,
  code: null, // {text, phone, until, total, replaced}; `until` on performance.now()'s clock
  ended: null, // why the last code ended, until somebody moves on
  qr: null, // the server's SVG text
  qrUntil: 0,
  pending: false, // we asked for a code and wait for the first answer
  wantForm: false, // the number field, although the session is linked or in trouble
  typed: null, // {number, country, e164} of this visit; never kept
  error: null, // {code, message, linkId}
  hold: 0, // until when asking again is pointless (retryAfter)
  lostAt: 0, // since when the socket is gone; 0: it is there
};

export const now = () => performance.now();
export const left = (until) => Math.max(0, Math.ceil((until - now()) / 1000));

let paint = () => {};
let waiting = 0;

export function onChange(render) {
  paint = render;
}

/** Renders soon, once for everything that arrives together. */
export function changed() {
  waiting ||= setTimeout(() => {
    waiting = 0;
    paint();
  }, 30);
}

const WITH_CODE = ['UNLINKED', 'CONNECTING', 'AWAITING_CODE_ENTRY'];
const AFTER_CODE = ['UNLINKED', 'AWAITING_CODE_ENTRY', 'AWAITING_SCAN'];
const LOST_FOR_GOOD = 2500;

/** Which face shows the truth. */
export function face() {
  if (app.auth === false) return 'login';
  if (app.lostAt && now() - app.lostAt > LOST_FOR_GOOD) return 'noserver';
  if (!app.status) return 'connecting';
  if (app.wantForm) return 'unlinked';
  const { state } = app.status;
  if (state === 'CONNECTED') return 'linked';
  if (state === 'LINKING') return 'linking';
  if (app.code && WITH_CODE.includes(state)) return 'code';
  if (app.ended && AFTER_CODE.includes(state)) return 'code';
  if (state === 'AWAITING_CODE_ENTRY') return now() - app.statusAt > 1500 ? 'code' : 'connecting';
  if (state === 'UNLINKED') return 'unlinked';
  if (state === 'CONNECTING') return 'connecting';
  return 'trouble';
}
