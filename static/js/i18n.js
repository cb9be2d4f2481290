// The page's languages. A new one is a file in /i18n and an entry here.
import { all, keep, kept } from './dom.js';

export const LANGUAGES = { ru: 'Русский', en: 'English' };

let texts = {};
export let lang = 'en';

export const firstLanguage = (house) => [kept('lang'), house, ...navigator.languages].map((tag) => tag?.slice(0, 2)).find((tag) => tag in LANGUAGES) || 'en';

export async function speak(wanted, remember) {
	texts = await (await fetch(`/i18n/${wanted}.json`)).json();
	lang = document.documentElement.lang = wanted;
	if (remember) keep('lang', lang);
	for (const node of all('[data-t]')) node.textContent = t(node.dataset.t);
	for (const node of all('[data-label]')) node.ariaLabel = t(node.dataset.label);
}

export const has = (key) => key in texts;

// `values` fill the {braces}; `values.n` chooses the plural form.
export function t(key, values = {}) {
	const text = texts[key] ?? key;
	const chosen = typeof text === 'object' ? text[new Intl.PluralRules(lang).select(values.n)] ?? text.other : text;
	return chosen.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
export const parts = (key) => texts[key] || texts['x.FAILED'];

export const moment = (ms, day = { dateStyle: 'long' }) => new Intl.DateTimeFormat(lang, { ...day, timeStyle: 'short' }).format(ms);
export const countryName = (code) => new Intl.DisplayNames(lang, { type: 'region' }).of(code);
