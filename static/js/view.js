// Paints the face that fits the state: which section is seen, its words, the title, the focus. It asks nothing of the server.
import { app, face, left, now } from './state.js';
import { moment, t, time } from './i18n.js';
import { drawCode, drawQr, spoken, tickCode, wordCode } from './code.js';
import { askButtons } from './form.js';

const at = (id) => document.getElementById(id);
const main = at('main');
const faces = [...main.querySelectorAll('[data-for]')];
const NUMBER_STAYS = ['RECONNECTING', 'REPLACED', 'BANNED', 'LOCKED', 'FAILED'];
const RECENT = 60_000;

let shown = 'connecting';
let said = '';

/** Tells screen readers, once. */
export function say(text) {
  at('live').textContent = '';
  setTimeout(() => { at('live').textContent = text; }, 50);
}

const put = (id, text) => {
  const node = at(id);
  if (node.textContent !== text) node.textContent = text;
};
const show = (id, yes) => { at(id).hidden = !yes; };

export function paint() {
  const which = face();
  const over = which === 'code' && !app.code;
  main.dataset.face = which;
  main.dataset.state = app.status?.state ?? '';
  for (const section of faces) section.hidden = section.dataset.for !== which;

  const named = app.sessions.length > 1 || app.session !== 'salon';
  put('salon-name', app.auth && named ? app.status?.name || app.session : '');
  show('logout', app.auth);
  show('more', app.auth && which !== 'noserver');
  put('notice', app.lostAt && which !== 'login' ? t('lost') : '');

  const trouble = app.error && which !== 'noserver';
  show('error', trouble);
  put('error-text', trouble ? app.error.message : '');
  show('relink', trouble && app.error.code === 'ALREADY_LINKED' && app.error.linkId && app.typed);

  painters[which]?.(app.status, over);
  if (which !== 'code') drawCode('');
  qr(which);
  askButtons();
  title(which, over);
  focus(over ? 'over' : which);
}

const painters = {
  unlinked(status) {
    show('back', app.wantForm && status.state !== 'UNLINKED');
  },
  connecting(status) {
    const asking = status && (app.pending || !status.lastConnected);
    const key = !status ? 'connecting' : asking ? 'asking' : 'reaching';
    put('connecting-h', t(`${key}.h`));
    put('connecting-p', t(`${key}.p`));
    main.querySelector('[data-for=connecting] .cancel').hidden = !asking;
  },
  code(status, over) {
    const ended = app.ended || 'expired';
    put('code-h', t(over ? `ended.${ended}` : 'code.h'));
    const phone = app.code?.phone || status.phone;
    put('code-for', over ? t('ended.p') : phone ? t('code.for', { phone }) : '');
    show('code-live', !over);
    show('code-over', over);
    show('how', !over);
    show('cancel', !over);
    show('replaced', !over && app.code.replaced);
    drawCode(over ? '' : app.code.text);
    if (over) return;
    wordCode();
    tickCode(say);
    if (app.code.replaced) put('replaced', replacedText(app.code.replaced));
    if (said !== app.code.text) say(t('code.spoken', { code: spoken(app.code.text) }));
    said = app.code.text;
  },
  linked(status) {
    put('linked-phone', status.phone || '');
    put('linked-since', status.since ? moment(status.since) : '—');
    const last = status.lastConnected;
    show('linked-last-row', last && Math.abs(last - status.since) > RECENT);
    put('linked-last', last ? moment(last) : '');
  },
  trouble(status) {
    const { state, until, phone, reason } = status;
    put('trouble-h', t(`x.${state}.h`));
    put('trouble-what', t(`x.${state}.p`));
    put('trouble-do', t(`x.${state}.d`));
    put('trouble-action', t(`x.${state}.b`));
    show('trouble-phone', phone && state !== 'AWAITING_SCAN');
    put('trouble-phone', phone || '');
    const when = until && (state === 'BANNED' ? t('x.until', { when: moment(until) }) : until > Date.now() && t('x.next', { time: time(until) }));
    show('trouble-until', when);
    put('trouble-until', when || '');
    show('trouble-code', state === 'FAILED' && reason);
    put('trouble-code', reason || '');
    show('trouble-other', NUMBER_STAYS.includes(state));
  },
};

function replacedText({ reason, oldPhone, wasLinked }) {
  const kind = reason === 'stale_credentials' ? 'stale' : wasLinked ? 'linked' : 'unfinished';
  return t(`replaced.${kind}${oldPhone ? '' : '.unknown'}`, { phone: oldPhone });
}

function qr(which) {
  const place = main.querySelector(`[data-for=${which}] .qr-place`);
  const wanted = place && (which === 'code' || app.status.state === 'AWAITING_SCAN') && (!app.qrUntil || left(app.qrUntil));
  const drawn = drawQr(wanted ? app.qr : null);
  if (drawn && at('qr-box').parentNode !== place) place.append(at('qr-box'));
  show('qr-box', drawn);
}

function title(which, over) {
  const key = { login: 'login.h', noserver: 'noserver.h', connecting: 'connecting.h', unlinked: 's.UNLINKED' }[which]
    || (over ? `ended.${app.ended || 'expired'}` : `s.${app.status.state}`);
  const name = at('salon-name').textContent;
  document.title = `${t(key)} · ${name || 'Hairpin'}`;
}

/** When the face changes, the focus goes to where the next thing is done, unless somebody is busy elsewhere. */
function focus(next) {
  if (next === shown) return;
  shown = next;
  const active = document.activeElement;
  if (active !== document.body && !main.contains(active)) return;
  const section = faces.find((node) => !node.hidden);
  const field = { login: 'access-key', unlinked: 'phone', over: 'new-code' }[next];
  (field ? at(field) : section.querySelector('h2')).focus({ preventScroll: !field });
  if (next === 'over') say(at('code-h').textContent);
  scrollTo(0, 0);
}

/** What moves by itself, four times a second. */
export function tick() {
  if (app.hold && !left(app.hold)) app.hold = 0;
  askButtons();
  if (main.dataset.face === 'code' && app.code) {
    if (now() >= app.code.until) {
      app.code = null;
      app.ended ||= 'expired';
    } else tickCode(say);
  }
  const qrOver = app.qr && app.qrUntil && !left(app.qrUntil);
  if (qrOver) app.qr = null;
  if (qrOver || main.dataset.face !== face() || (main.dataset.face === 'code' && !app.code && at('code-over').hidden)) paint();
}

