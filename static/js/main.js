// Ties the page together: login, the socket's messages, and what each button asks of the appliance.
import { app, changed, left, now, onChange } from './state.js';
import { call } from './api.js';
import { Link } from './socket.js';
import { firstLanguage, lang, LANGUAGES, speak, t } from './i18n.js';
import { keep, kept } from './memory.js';
import { ask, closeAll } from './dialogs.js';
import { copyCode } from './code.js';
import { blame, clearField, emptyVerdict, fillCountries, refreshVerdict, shownNumber, typed } from './form.js';
import { draw, onSession, readJournal, refresh } from './panels.js';
import { paint, say, tick } from './view.js';

const at = (id) => document.getElementById(id);
const on = (id, what) => at(id).addEventListener('click', what);
const house = (name) => document.querySelector(`meta[name="hairpin-${name}"]`)?.content || '';
const HOUSE_COUNTRY = house('country') || 'RU';
const GLANCE = 20_000;

let fresh = false; // a new connection whose first status has not come
let cancelled = false;

// ---- the socket

const link = new Link({
  open() {
    app.lostAt = 0;
    fresh = true;
    changed();
  },
  lost(tries) {
    app.lostAt ||= now();
    app.pending = false;
    changed();
    if (tries % 3 === 1) glance();
  },
  ended(code) {
    if (code === 4401) loggedOut();
    else if (code === 4404 && app.session !== 'salon') go('salon');
    else return false;
    return true;
  },
  message(event, data) {
    if (data.session && data.session !== app.session) return;
    messages[event]?.(data);
    changed();
  },
});

const messages = {
  'session-status'(status) {
    if (fresh) {
      // What is still live is sent again right after this.
      fresh = false;
      app.code = app.qr = null;
    }
    app.status = status;
    app.statusAt = now();
    const { state } = status;
    if (state !== 'UNLINKED' && state !== 'CONNECTING') settle(state);
    if (state === 'UNLINKED') {
      app.wantForm = false;
      app.code = null;
    }
    if (state === 'LINKING' || state === 'CONNECTED') {
      app.code = app.qr = app.ended = null;
      app.error = null;
    }
    if (state === 'CONNECTED' && !app.wantForm) {
      app.typed = null;
      clearField();
    }
    const known = app.sessions.findIndex((one) => one.session === status.session);
    if (known >= 0) app.sessions[known] = status;
    draw();
  },
  'pairing-code'({ code, phoneNumber, expiresIn, replaced }) {
    const until = now() + expiresIn * 1000;
    const same = app.code?.text === code;
    app.code = { text: code, phone: phoneNumber, until, total: same ? Math.max(app.code.total, expiresIn) : expiresIn, replaced };
    app.ended = app.error = null;
    app.pending = app.wantForm = false;
    app.hold = 0;
  },
  'pairing-code-ended'({ reason }) {
    app.code = null;
    app.ended = ['cancelled', 'linked'].includes(reason) ? null : reason;
    if (reason !== 'superseded') app.pending = false;
  },
  'pairing-code-error'(error) {
    app.pending = false;
    if (error.code === 'REPLACE_CONFIRMATION_REQUIRED' && error.linkId && app.typed) {
      askReplace('replace', error);
      return;
    }
    if (error.code === 'CANCELLED' && cancelled) return;
    app.error = error;
    if (error.retryAfter) app.hold = now() + error.retryAfter * 1000;
    if (/^INVALID_/.test(error.code)) setTimeout(blame, 60);
  },
  qr({ svg, expiresIn }) {
    app.qr = svg || null;
    app.qrUntil = expiresIn ? now() + expiresIn * 1000 : 0;
  },
};

/** Our request has become something that everybody sees, so the form has done its work. */
function settle(state) {
  if (app.pending || state === 'LINKING') app.wantForm = false;
  app.pending = false;
}

function send(event, data) {
  app.error = null;
  cancelled = event === 'cancel-pairing';
  const sent = link.send(event, data);
  if (!sent) app.error = { message: t('lost') };
  changed();
  return sent;
}

// ---- asking for a code

function request(replace = null) {
  const { number, country } = app.typed;
  app.pending = send('request-pairing-code', { phoneNumber: number, country, replace });
}

const waiting = () => app.pending || left(app.hold) > 0;

async function askReplace(kind, { oldPhone, linkId }) {
  const values = { old: oldPhone || '—', new: shownNumber(app.typed) };
  const yes = await ask('replace', { h: t(`${kind}.h`, values), p: t(`${kind}.p`, values), yes: t(`${kind}.yes`, values), no: t(`${kind}.no`, values) });
  if (yes) request(linkId);
}

function toForm() {
  app.ended = app.error = null;
  app.wantForm = app.status?.state !== 'UNLINKED';
  changed();
}

at('phone-form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (waiting()) return;
  const wish = typed();
  if (!wish.number) return emptyVerdict();
  app.typed = wish;
  keep('country', wish.country);
  request();
});

on('new-code', () => {
  if (waiting()) return;
  if (app.typed) request();
  else toForm();
});
on('other-number', () => {
  clearField();
  toForm();
});
on('relink', () => askReplace('anew', app.error));
on('back', () => {
  app.wantForm = false;
  app.error = null;
  changed();
});
on('link-other', toForm);
on('trouble-other', toForm);
for (const button of document.querySelectorAll('.cancel')) button.addEventListener('click', () => send('cancel-pairing'));

on('copy-code', async () => {
  const done = await copyCode();
  const text = t(done ? 'copied' : 'copy.failed');
  at('copy-code').textContent = text;
  say(text);
  setTimeout(() => { at('copy-code').textContent = t('copy'); }, 2500);
});

on('unlink', async () => {
  const values = { phone: app.status.phone || '' };
  if (await ask('confirm', { h: t('unlink.h', values), p: t('unlink.p'), yes: t('unlink'), no: t('keep') })) send('unlink');
});

on('trouble-action', () => {
  const { state, lastConnected } = app.status;
  if (state === 'AWAITING_SCAN') send('cancel-pairing');
  else if (['LOGGED_OUT', 'HALF_LINKED', 'PASSKEY_REQUIRED'].includes(state)) toForm();
  else if (state === 'FAILED' && !lastConnected) app.typed ? request() : toForm();
  else send('reconnect');
});

// ---- which phone

function steps(os) {
  at('step-menu').textContent = t(`steps.2.${os}`);
}
for (const radio of document.querySelectorAll('[name=os]')) {
  radio.checked = radio.value === (kept('os') || 'android');
  radio.addEventListener('change', () => {
    keep('os', radio.value);
    steps(radio.value);
  });
}

// ---- coming in and going out

async function enter(accessKey) {
  app.error = null;
  app.pending = true;
  changed();
  const { status, data, after } = await call('POST', '/login', { accessKey });
  app.pending = false;
  at('access-key').value = '';
  if (status === 204) return start();
  app.auth = false;
  const wait = data?.retryAfter || after;
  if (status === 429) app.hold = now() + (wait || 30) * 1000;
  app.error = { message: t(status === 401 ? 'login.wrong' : status === 429 ? 'login.wait' : status ? 'error' : 'lost') };
  changed();
  setTimeout(() => at('access-key').focus(), 60);
}

function loggedOut() {
  link.close();
  closeAll();
  Object.assign(app, { auth: false, status: null, code: null, ended: null, qr: null, typed: null, pending: false, wantForm: false, error: null, hold: 0, lostAt: 0, sessions: [] });
  clearField();
  at('tabs').hidden = true;
  for (const details of document.querySelectorAll('details')) details.open = false;
  at('journal-list').replaceChildren();
  changed();
}

at('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const key = at('access-key').value.trim();
  if (key && !waiting()) enter(key);
});
on('logout', async () => {
  await call('POST', '/logout');
  loggedOut();
});

/** Opens the page for somebody who is logged in, or finds that nobody is. */
async function start() {
  const status = await refresh();
  if (status === 401 || status === 403) return loggedOut();
  app.auth = true;
  app.lostAt = status ? 0 : now();
  if (status === 200 && missing()) return go('salon');
  draw(true);
  link.open(app.session, lang);
  changed();
}

const missing = () => app.session !== 'salon' && !app.sessions.some((one) => one.session === app.session);

/** A look at the list now and then: it tells a lost server, a lost login and a removed session. */
async function glance() {
  if (!app.auth) return;
  const status = await refresh();
  if (status === 401) return loggedOut();
  if (status === 200 && missing()) return go('salon');
  if (!status && !app.lostAt) link.again();
  changed();
}

function go(session) {
  if (session !== app.session) history.pushState(null, '', session === 'salon' ? location.pathname : `?session=${session}`);
  openSession();
}

function openSession() {
  const wanted = new URLSearchParams(location.search).get('session') || '';
  app.session = /^[a-z0-9][a-z0-9-]{0,31}$/.test(wanted) ? wanted : 'salon';
  Object.assign(app, { status: null, code: null, ended: null, qr: null, typed: null, pending: false, wantForm: false, error: null, hold: 0 });
  clearField();
  closeAll();
  if (!app.auth) return;
  draw(true);
  link.open(app.session, lang);
  changed();
}

onSession(go);
addEventListener('popstate', openSession);

// ---- languages

function words() {
  const os = document.querySelector('[name=os]:checked').value;
  steps(os);
  fillCountries(HOUSE_COUNTRY);
  draw(true);
  readJournal();
  refreshVerdict();
}

at('language').append(...LANGUAGES.map(([code, name]) => Object.assign(new Option(name, code), { lang: code })));
at('language').addEventListener('change', async ({ target }) => {
  await speak(target.value, true);
  app.error = null;
  words();
  if (app.auth) link.open(app.session, lang);
  paint();
});

// ---- waking up, and the beat

let hiddenAt = 0;
const wake = () => {
  link.again();
  glance();
};
document.addEventListener('visibilitychange', () => {
  if (document.hidden) hiddenAt = Date.now();
  else if (Date.now() - hiddenAt > 5000) wake();
});
addEventListener('online', wake);
addEventListener('pageshow', ({ persisted }) => persisted && wake());
on('retry', wake);

setInterval(() => !document.hidden && glance(), GLANCE);

// A jump between the two clocks is a machine that slept: the code's time is asked for again.
let drift = Date.now() - performance.now();
setInterval(() => {
  const next = Date.now() - performance.now();
  if (Math.abs(next - drift) > 3000 && app.auth) wake();
  drift = next;
  tick();
}, 250);

// ---- first light

const key = /^#key=(.+)$/.exec(location.hash)?.[1];
if (location.hash) history.replaceState(null, '', location.pathname + location.search);

await speak(firstLanguage(house('language')), false);
at('language').value = lang;
onChange(paint);
openSession();
words();
paint();
if (key) await enter(decodeURIComponent(key));
else await start();
