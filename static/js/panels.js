// The panels below the card: several numbers, and the journal for whoever looks after the machine.
import { app, changed } from './state.js';
import { call, session } from './api.js';
import { has, moment, span, t } from './i18n.js';
import { ask, askName } from './dialogs.js';

const at = (id) => document.getElementById(id);
const GOOD = ['CONNECTED'];
const CALM = ['UNLINKED', 'CONNECTING', 'AWAITING_CODE_ENTRY', 'LINKING'];

let go = () => {};
let drawn = '';

export function onSession(open) {
  go = open;
}

const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });
const label = (one) => one.name || one.session;
const word = (state) => (has(`s.${state}`) ? t(`s.${state}`) : state);

function dot(state) {
  const node = make('i', '', { className: `dot ${GOOD.includes(state) ? 'good' : CALM.includes(state) ? '' : 'bad'}` });
  node.setAttribute('aria-hidden', 'true');
  return node;
}

function link(one) {
  const node = make('a', '', { href: `?session=${one.session}` });
  if (one.session === app.session) node.setAttribute('aria-current', 'page');
  node.append(dot(one.state), make('span', label(one)), make('span', word(one.state), { className: 'unseen' }));
  node.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(one.session);
  });
  return node;
}

function row(one) {
  const item = make('li', '');
  const text = make('span', [word(one.state), one.phone].filter(Boolean).join(' · '), { className: 'help' });
  const name = make('span', label(one), { className: 'name' });
  const rename = make('button', t('numbers.rename'), { type: 'button', className: 'quiet' });
  rename.setAttribute('aria-label', `${t('numbers.rename')}: ${label(one)}`);
  rename.addEventListener('click', async () => {
    const wanted = await askName(t('numbers.rename.h', { name: label(one) }), one.name || '');
    if (wanted) report(await call('PUT', session(one.session), { name: wanted }));
  });
  item.append(dot(one.state), name, text, rename);
  if (one.session !== 'salon') {
    const remove = make('button', t('numbers.remove'), { type: 'button', className: 'quiet' });
    remove.setAttribute('aria-label', `${t('numbers.remove')}: ${label(one)}`);
    remove.addEventListener('click', async () => {
      const yes = await ask('confirm', { h: t('numbers.remove.h', { name: label(one) }), p: t('numbers.remove.p'), yes: t('numbers.remove.yes'), no: t('keep') });
      if (yes) report(await call('DELETE', session(one.session)));
    });
    item.append(remove);
  }
  return item;
}

async function report({ status, data }) {
  const good = status >= 200 && status < 300;
  app.error = good ? null : { code: data?.code, message: data?.message || data?.detail || t('error') };
  await refresh();
  changed();
}

/** Reads the list of sessions; answers with the HTTP status. */
export async function refresh() {
  const { status, data } = await call('GET', '/api/v1/sessions');
  if (status === 200 && Array.isArray(data)) {
    app.sessions = data;
    draw();
  }
  return status;
}

export function draw(always) {
  const several = app.sessions.length > 1 && app.auth;
  at('tabs').hidden = !several;
  const print = JSON.stringify([app.session, app.sessions.map((one) => [one.session, one.name, one.state, one.phone])]);
  if (print === drawn && !always) return;
  drawn = print;
  at('tabs').replaceChildren(...(several ? app.sessions.map(link) : []));
  at('session-list').replaceChildren(...app.sessions.map(row));
}

at('session-add').addEventListener('click', async () => {
  const name = await askName(t('numbers.add'), '');
  if (!name) return;
  const taken = (id) => app.sessions.some((one) => one.session === id);
  let id = name.normalize('NFKD').toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-+/, '').slice(0, 24).replace(/-+$/, '') || 'number';
  for (let n = 2, base = id; taken(id); n += 1) id = `${base}-${n}`;
  const answer = await call('PUT', session(id), { name });
  await report(answer);
  if (answer.status === 201) go(id);
});

// The journal: read when somebody opens it, hidden where the server has none.
const journal = at('journal');

export async function readJournal() {
  if (!journal.open || !app.auth) return;
  const [health, audit] = await Promise.all([call('GET', '/healthz'), call('GET', '/api/v1/audit?limit=50')]);
  const linked = app.sessions.filter((one) => one.state === 'CONNECTED').length;
  at('health').textContent = `${t(health.status === 200 ? 'health.good' : 'health.bad')} ${t('health.linked', { n: linked, all: app.sessions.length })}`;
  if (audit.status === 404) journal.hidden = true;
  const rows = (Array.isArray(audit.data) ? audit.data : []).map(entry);
  at('journal-list').replaceChildren(...(rows.length ? rows : [make('li', t('journal.empty'))]));
}

function entry(e) {
  const item = make('li', '');
  const at = Number(e.time);
  const time = make('time', at ? moment(at) : '');
  if (at) time.dateTime = new Date(at).toISOString();
  const say = (prefix, value) => (has(`${prefix}.${value}`) ? t(`${prefix}.${value}`) : String(value));
  const phones = [e.oldPhone, e.phone].filter(Boolean).join(' → ');
  const several = app.sessions.length > 1 && app.sessions.find((one) => one.session === e.session);
  const who = e.by && [say('by', e.by), e.userAgent].filter(Boolean).join(', ');
  const more = [
    several && label(several),
    who,
    e.confirmed && t('journal.confirmed'),
    Number.isFinite(e.credentialAgeSeconds) && t('journal.age', { age: span(e.credentialAgeSeconds) }),
    Number.isFinite(e.durationMs) && t('journal.took', { time: span(Math.max(1, e.durationMs / 1000)) }),
    e.outcome && say('outcome', e.outcome),
  ];
  item.append(time, make('b', say('what', e.what)), make('span', phones), make('span', more.filter(Boolean).join(' · '), { className: 'help' }));
  return item;
}

journal.addEventListener('toggle', readJournal);
