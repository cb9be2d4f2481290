// The page's words. A new language is a file in /i18n, nothing else.
import { all, kept } from './dom.js';
import { house } from './house.js';
import { call } from './server.js';

let texts = {};
export let lang = 'en';

export const firstLanguage = () => [kept('lang'), house.language, ...navigator.languages].map((tag) => tag?.split('-')[0]).find((tag) => tag in house.languages) || 'en';

// False: the server did not answer, and nothing has changed.
export async function speak(wanted) {
	const { status, data } = await call('GET', `/i18n/${wanted}.json`);
	if (status !== 200) return false;
	texts = data;
	lang = document.documentElement.lang = wanted;
	for (const node of all('[data-t]')) node.textContent = t(node.dataset.t);
	for (const node of all('[data-label]')) node.ariaLabel = t(node.dataset.label);
	return true;
}

export const has = (key) => key in texts;

// `values` fill the {braces}; `values.n` chooses the plural form.
export function t(key, values = {}) {
	const text = texts[key] ?? key;
	const chosen = typeof text === 'object' ? text[new Intl.PluralRules(lang).select(values.n)] ?? text.other : text;
	return chosen.replace(/\{(\w+)\}/g, (_, name) => (name === 'n' ? number(values.n) : values[name]));
}
export const parts = (key) => texts[key] || texts['x.FAILED'];

export const number = (n, more) => new Intl.NumberFormat(lang, more).format(n);
export const moment = (ms, day = { dateStyle: 'long' }) => new Intl.DateTimeFormat(lang, { ...day, timeStyle: 'short' }).format(ms);
// "in 5 seconds", and in whole minutes where seconds would be too many.
export const soon = (n) => new Intl.RelativeTimeFormat(lang).format(...(n < 91 ? [n, 'second'] : [Math.ceil(n / 60), 'minute']));
export const countryName = (code) => new Intl.DisplayNames(lang, { type: 'region' }).of(code);
