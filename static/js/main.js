// Ties the page together: login, the socket's messages, what each button asks for.
import { app, changed, forget, left, now, onChange } from './state.js';
import { all, at, keep, kept, on, put, show } from './dom.js';
import { call, connect, dialling, disconnect, redial, send } from './server.js';
import { house } from './house.js';
import { firstLanguage, lang, speak, t } from './i18n.js';
import { ask } from './dialogs.js';
import { copyCode } from './code.js';
import { asRead, clearField, fillCountries, judge, typed, verdict } from './form.js';
import { draw, readJournal, refresh } from './panels.js';
import { paint, tick } from './view.js';

app.session = /^[a-z0-9][a-z0-9-]{0,31}$/.exec(new URLSearchParams(location.search).get('session') || '')?.[0] || 'salon';

let fresh; // a new connection, still without its first status

const listener = {
	open() {
		if (app.lostAt) app.error = null;
		app.lostAt = 0;
		fresh = true;
		changed();
	},
	lost(tries) {
		app.lostAt ||= now();
		app.pending = false;
		changed();
		// A refused upgrade looks like a lost server: a plain request tells them apart.
		if (tries % 3 === 1) glance();
	},
	final(code) {
		if (code === 4401) leave();
		if (code === 4404) location.replace('/');
		return code === 4401 || code === 4404;
	},
	message(event, data) {
		if (data.session !== app.session) return;
		messages[event]?.(data);
		changed();
	},
};

const messages = {
	'session-status'(status) {
		// What is still live follows.
		if (fresh) app.code = app.qr = null;
		fresh = false;
		const { state } = status;
		const news = state !== app.status?.state;
		app.status = status;
		const idle = state === 'UNLINKED';
		if (idle) app.code = null;
		if (state === 'CONNECTING') app.ended = null;
		if (idle || state === 'LINKING' || (app.pending && state !== 'CONNECTED')) app.wantForm = false;
		// A link that is to be replaced may come and go until its turn.
		if (!/^UNL|CONN/.test(state)) app.pending = false;
		if (state !== 'CONNECTING') app.stopping = false;
		if (state === 'LINKING' || state === 'CONNECTED') {
			app.code = app.qr = app.ended = null;
			if (news) app.error = null;
		}
		if (state === 'CONNECTED' && !app.wantForm) clearField();
		app.sessions = app.sessions.map((one) => (one.session === status.session ? status : one));
		draw();
	},
	'pairing-code'({ code, phoneNumber, expiresIn, expiresAt, replaced }) {
		const total = app.code?.text === code ? Math.max(app.code.total, expiresIn) : expiresIn;
		app.code = { text: code, phone: phoneNumber, until: now() + expiresIn * 1000, expiresAt, total, replaced };
		app.ended = app.error = null;
		app.pending = app.wantForm = false;
	},
	'pairing-code-ended'({ reason }) {
		app.code = null;
		app.swapped = reason === 'superseded' && !app.pending;
		app.ended = /cancelled|linked/.test(reason) ? null : reason;
	},
	'pairing-code-error'(error) {
		app.pending = false;
		if (error.code === 'CANCELLED') return;
		if (error.code === 'REPLACE_CONFIRMATION_REQUIRED' && app.typed) return void askReplace(error, 'replace.yes');
		if (/^INVALID/.test(error.code)) {
			verdict('bad', error.message);
			return void at('phone').focus();
		}
		app.error = error;
		app.hold = now() + (error.retryAfter || 0) * 1000;
	},
	qr({ svg, expiresIn }) {
		app.qr = svg;
		app.qrUntil = now() + (expiresIn || Infinity) * 1000;
	},
};

function tell(event, data) {
	const sent = send(event, data);
	app.error = sent ? null : { message: t('lost') };
	changed();
	return sent;
}

function request(replace = null) {
	const { number, country } = app.typed;
	app.swapped = false;
	app.pending = tell('request-pairing-code', { phoneNumber: number, country, replace }) && (replace ? 'replace' : 'new');
}

const waiting = () => app.pending || left(app.hold);

async function askReplace({ oldPhone, linkId }, yes) {
	await judge();
	const values = { old: oldPhone || app.status.phone, new: asRead(app.typed) };
	if (await ask(t('replace.h'), t('replace.p', values), t(yes, values), t('replace.no', values))) request(linkId);
}

function toForm() {
	app.ended = app.error = null;
	app.wantForm = app.status.state !== 'UNLINKED';
	changed();
}

on('phone-form', (event) => {
	event.preventDefault();
	if (waiting()) return;
	app.typed = typed();
	request();
}, 'submit');
on('new-code', () => {
	if (!app.typed) toForm();
	else if (!waiting()) request();
});
on('other-number', () => {
	clearField();
	toForm();
});
on('link-other', toForm);
on('trouble-other', toForm);
on('back', () => {
	// Whoever goes back wants the old link kept.
	if (app.pending) tell('cancel-pairing');
	app.wantForm = app.pending = false;
	app.error = null;
	changed();
});
on('relink', () => askReplace(app.error, 'relink'));
on('cancel', () => tell('cancel-pairing'));
on('stop', () => {
	app.stopping = tell('cancel-pairing') && app.status.state === 'CONNECTING';
	changed();
});
on('copy-code', copyCode);
on('unlink', async () => {
	if (await ask(t('unlink.h', app.status), t('unlink.p'), t('unlink'), t('keep'))) tell('unlink');
});
on('trouble-action', () => {
	const { state, lastConnected } = app.status;
	const unmade = state === 'FAILED' && !lastConnected;
	if (app.lostAt) wake();
	else if (state === 'AWAITING_SCAN') tell('cancel-pairing');
	else if (unmade && app.typed) request();
	else if (unmade || /LOGGED_OUT|HALF_LINKED|PASSKEY/.test(state)) toForm();
	else tell('reconnect');
});

async function enter(accessKey) {
	app.error = null;
	app.pending = true;
	changed();
	const { status, data } = await call('POST', '/login', { accessKey });
	app.pending = false;
	if (status === 204) {
		at('access-key').value = '';
		return start();
	}
	if (status === 429) app.hold = now() + (data.retryAfter || 30) * 1000;
	app.auth = false;
	app.error = { message: { 0: t('lost'), 401: t('login.wrong') }[status] || data.message || t('error') };
	changed();
	at('access-key').select();
}

function leave() {
	disconnect();
	at('dialog').close();
	forget();
	clearField();
	Object.assign(app, { auth: false, sessions: [], lostAt: 0 });
	for (const panel of all('details')) panel.open = false;
	at('journal-list').replaceChildren();
	draw();
	changed();
}

on('login-form', (event) => {
	event.preventDefault();
	if (!waiting()) enter(at('access-key').value.trim());
}, 'submit');
on('logout', async () => {
	await call('POST', '/logout');
	leave();
});

async function start(key) {
	if (await refresh() === 401) return key ? enter(key) : leave();
	app.auth = true;
	connect(app.session, lang, listener);
	changed();
}

// Finds a lost server, a lost login, a removed session, and a socket that went deaf.
async function glance() {
	if (!app.auth) return;
	const heard = app.status;
	const status = await refresh();
	const own = app.sessions.find((one) => one.session === app.session);
	if (status === 401) leave();
	else if (status === 200 && app.session !== 'salon' && !own) location.replace('/');
	else if (!app.lostAt && !dialling() && heard === app.status && (!status || own?.state !== heard?.state)) redial();
}

function steps() {
	const os = document.querySelector('[name=os]:checked').value;
	put('step-menu', t(`steps.2.${os}`));
	at('step-drawing').src = `/steps.svg#${os === 'iphone' ? 5 : 2}`;
}

function words() {
	steps();
	fillCountries();
	draw(true);
	readJournal();
	judge();
}

at('language').append(...Object.entries(house.languages).map(([code, name]) => new Option(name, code)));
on('language', async () => {
	if (await speak(at('language').value)) {
		keep('lang', lang);
		app.error = null;
		words();
		if (app.auth) connect(app.session, lang, listener);
		paint();
	} else {
		at('language').value = lang;
	}
}, 'change');
for (const radio of all('[name=os]')) {
	radio.checked = radio.value === (kept('os') || (/iP(hone|ad)/.test(navigator.userAgent) ? 'iphone' : 'android'));
	radio.onchange = () => {
		keep('os', radio.value);
		steps();
	};
}

const wake = () => {
	redial();
	glance();
};
setInterval(() => document.hidden || glance(), 20_000);

// Out of sight a browser may freeze the page and its socket: whoever comes back sees the present truth.
let hiddenAt = 0;
document.addEventListener('visibilitychange', () => {
	if (document.hidden) hiddenAt = Date.now();
	else if (Date.now() - hiddenAt > 5000) wake();
	else glance();
});
addEventListener('pageshow', ({ persisted }) => persisted && wake());
addEventListener('online', wake);

// The clocks drift apart when the machine slept: ask again for what is live.
let drift = Date.now() - now();
setInterval(() => {
	const next = Date.now() - now();
	if (Math.abs(next - drift) > 3000) wake();
	drift = next;
	tick();
}, 250);

// Anybody can write a link: whoever is in already spends no try on its key, and nor does what is no key.
const key = /^#key=(hp(-\w{5}){6})$/.exec(location.hash)?.[1];
if (location.hash) history.replaceState(null, '', location.pathname + location.search);
while (!await speak(firstLanguage())) await new Promise((again) => setTimeout(again, 1000));
at('language').value = lang;
show('language', true);
onChange(paint);
words();
paint();
start(key);
