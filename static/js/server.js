// Speaks with the appliance: HTTP calls, and one WebSocket that comes back by itself.
import { lang } from './i18n.js';

export const SESSIONS = '/api/v1/sessions';

// Status 0: no answer.
export async function call(method, path, body) {
	try {
		const answer = await fetch(path, {
			method,
			headers: { 'Accept-Language': lang, 'Content-Type': 'application/json' },
			body: body && JSON.stringify(body),
			signal: AbortSignal.timeout(10_000),
		});
		const text = await answer.text();
		return { status: answer.status, grouped: answer.headers.get('hairpin-number'), data: /json/.test(answer.headers.get('content-type')) && text ? JSON.parse(text) : {} };
	} catch {
		return { status: 0, data: {} };
	}
}
const PAUSES = [300, 700, 1500, 3000, 5000, 10_000];

let socket, where, timer;
let tries = 0;
let fresh = false; // nothing has come over this connection yet
let tell; // { open(), message(event, data), lost(tries), final(code): true when there is no coming back }

export function connect(session, lang, listener) {
	tell = listener;
	where = `${location.origin.replace('http', 'ws')}/ws?session=${session}&lang=${lang}`;
	tries = 0;
	dial();
}

export function disconnect() {
	where = null;
	drop();
}

export const dialling = () => fresh;

export function redial() {
	if (where) dial();
}

export function send(event, data = {}) {
	if (socket?.readyState !== WebSocket.OPEN) return false;
	socket.send(JSON.stringify({ event, data }));
	return true;
}

function drop() {
	clearTimeout(timer);
	const old = socket;
	socket = null;
	old?.close();
}

function dial() {
	drop();
	const mine = new WebSocket(where);
	socket = mine;
	fresh = true;
	// One over which nothing comes (the network sleeps) is given up.
	timer = setTimeout(lose, 8000);
	mine.onopen = () => {
		if (mine === socket) tell.open();
	};
	mine.onmessage = ({ data }) => {
		if (mine !== socket) return;
		clearTimeout(timer);
		fresh = false;
		tries = 0;
		const frame = JSON.parse(data);
		tell.message(frame.event, frame.data);
	};
	mine.onclose = ({ code }) => mine === socket && lose(code);
}

function lose(code) {
	drop();
	if (tell.final(code)) return;
	timer = setTimeout(dial, PAUSES[Math.min(tries++, 5)] * (0.8 + Math.random() * 0.4));
	tell.lost(tries);
}
