// The panels below the card: several numbers, and the journal.
import { app, changed } from './state.js';
import { at, make, on, put } from './dom.js';
import { call, SESSIONS } from './server.js';
import { has, moment, number, t } from './i18n.js';
import { ask, askName } from './dialogs.js';
import { stateWord } from './view.js';

const CALM = ['UNLINKED', 'CONNECTING', 'AWAITING_CODE_ENTRY', 'LINKING'];
let drawn;

const label = (one) => one.name || one.session;
const of = (id) => `${SESSIONS}/${id}`;
const dot = (state) => make('i', '', { className: `dot ${state === 'CONNECTED' ? 'good' : CALM.includes(state) ? '' : 'bad'}` });

function row(one) {
	const item = make('li');
	const link = make('a', label(one), { href: `?session=${one.session}` });
	if (one.session === app.session) link.ariaCurrent = 'page';
	const buttons = make('span', '', { className: 'row' });
	const button = (text, act) => {
		const node = make('button', t(text), { className: 'quiet', onclick: act });
		node.ariaLabel = `${t(text)}: ${label(one)}`;
		buttons.append(node);
	};
	item.append(dot(one.state), link, make('span', `${stateWord(one.state)} ${one.phone || ''}`, { className: 'help' }), buttons);
	button('rename', async () => {
		const name = await askName(t('rename'), label(one), t('rename'), t('back'));
		if (name) report(await call('PUT', of(one.session), { name }));
	});
	if (one.session !== 'salon') {
		button('remove', async () => {
			const text = t('remove');
			if (await ask(`${text}: ${label(one)}?`, t('remove.p'), text, t('keep'))) report(await call('DELETE', of(one.session)));
		});
	}
	return item;
}

async function report({ status, data }) {
	app.error = status >= 200 && status < 300 ? null : { message: data.message || t('error') };
	await refresh();
	changed();
}

export async function refresh() {
	const { status, data } = await call('GET', SESSIONS);
	if (status === 200) {
		if (data.length > 1 && !app.sessions.length) at('sessions').open = true;
		app.sessions = data;
		draw();
	}
	return status;
}

export function draw(anew) {
	const print = JSON.stringify([app.session, app.sessions]);
	if (print === drawn && !anew) return;
	drawn = print;
	at('session-list').replaceChildren(...app.sessions.map(row));
}

on('session-add', async () => {
	const name = await askName(t('add'), '', t('add'), t('back'));
	if (!name) return;
	const base = name.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-/, '').slice(0, 24) || 'number';
	let id = base;
	for (let n = 2; app.sessions.some((one) => one.session === id); n++) id = `${base}-${n}`;
	await report(await call('PUT', of(id), { name }));
});

export async function readJournal() {
	if (!at('journal').open) return;
	const [health, audit, metrics] = await Promise.all(['/healthz', '/api/v1/audit?limit=50', '/api/v1/metrics'].map((path) => call('GET', path)));
	const n = app.sessions.filter((one) => one.state === 'CONNECTED').length;
	const size = metrics.data.hairpin_store_size_bytes?.[0].value / 1000;
	put('health', [
		t(health.status === 200 ? 'health.good' : 'health.bad'),
		t('health.linked', { n }),
		size && number(size, { style: 'unit', unit: 'kilobyte', maximumFractionDigits: 0 }),
		`Hairpin ${metrics.data.hairpin_build_info?.[0].labels.version || ''}`,
	].filter(Boolean).join(' · '));
	const rows = Array.isArray(audit.data) ? audit.data.map(entry) : [];
	at('journal-list').replaceChildren(...(rows.length ? rows : [make('li', t('journal.empty'))]));
}

const word = (...keys) => keys.filter(has).map((key) => t(key))[0];
// Of the long name that a browser gives itself.
const device = (agent) => [/Firefox|Chrome|Safari/, /Windows|Android|iPhone|iPad|Mac|Linux(?!; A)/].map((part) => part.exec(agent)?.[0]);

function entry(e) {
	const item = make('li');
	const one = app.sessions.length > 1 && app.sessions.find(({ session }) => session === e.session);
	const more = [
		e.time && moment(e.time, { dateStyle: 'medium' }),
		one && label(one),
		word(`by.${e.by}`),
		...device(e.userAgent),
		e.confirmed && t('journal.confirmed'),
		e.outcome !== e.what && word(`ended.${e.outcome}`, `what.${e.outcome}`),
	];
	item.append(
		make('b', word(`what.${e.what}`) || e.what),
		make('span', [e.oldPhone, e.phone].filter(Boolean).join(' → ')),
		make('span', more.filter(Boolean).join(' · '), { className: 'help', title: e.userAgent || '' }),
	);
	return item;
}

on('journal', readJournal, 'toggle');
