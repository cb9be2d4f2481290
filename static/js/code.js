// The pairing code, its clock (performance.now(), never the wall's time) and the QR.
import { app, left, now } from './state.js';
import { at, make, put, say } from './dom.js';
import { moment, number, t } from './i18n.js';

let drawnQr = null;
let seconds;

export function drawCode(code, note) {
	const box = at('code');
	const spoken = code && t('code.spoken', { code: code.split('-').map((group) => [...group].join(', ')).join('; ') });
	if (box.ariaLabel !== spoken) box.ariaLabel = spoken;
	if (box.dataset.code === code) return;
	box.dataset.code = code;
	seconds = undefined;
	box.replaceChildren(...code.split('-').filter(Boolean).map((group) => {
		const part = make('span');
		part.append(...[...group].map((letter) => make('b', letter)));
		return part;
	}));
	if (code) say(`${note} ${spoken}`.trim());
}

export function tickCode() {
	const { until, expiresAt, total } = app.code;
	const n = left(until);
	const words = t('code.left', { n });
	at('arc').setAttribute('stroke-dashoffset', 100 - (until - now()) / total / 10);
	put('countdown', number(n));
	put('countdown-unit', words);
	put('valid-until', t('code.until', { when: moment(expiresAt, {}) }));
	at('code').parentNode.classList.toggle('late', n <= 30);
	if ([60, 30, 10].some((mark) => seconds > mark && n <= mark)) say(`${number(n)} ${words}`);
	seconds = n;
}

// The server drew it of nothing but squares; the page's policy lets no script or style in it act.
export function drawQr(text) {
	if (text !== drawnQr) {
		drawnQr = text;
		at('qr').replaceChildren();
		if (text) at('qr').append(new DOMParser().parseFromString(text, 'image/svg+xml').documentElement);
		at('qr').firstChild?.removeAttribute('role');
	}
	return at('qr').firstChild;
}

// Over plain HTTP there is no clipboard. The dash stays behind: the phone has its own.
export async function copyCode() {
	const value = app.code.text.replace('-', '');
	let copied = true;
	try {
		await navigator.clipboard.writeText(value);
	} catch {
		const field = make('textarea', value, { className: 'unseen', readOnly: true });
		document.body.append(field);
		field.select();
		copied = document.execCommand('copy');
		field.remove();
		at('copy-code').focus();
	}
	const words = t(copied ? 'copied' : 'error');
	put('copy-code', words);
	say(words);
	setTimeout(() => put('copy-code', t('copy')), 2500);
}
