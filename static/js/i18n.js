// The page's languages: texts, plural forms, times. A new language is one file in /i18n and one entry here.
import { all, keep, kept } from './dom.js';

export const LANGUAGES = { ru: 'Русский', en: 'English' };

let texts = {};
export let lang = 'en';

export const firstLanguage = (house) => [kept('lang'), house, ...navigator.languages].map((tag) => tag?.slice(0, 2)).find((tag) => tag in LANGUAGES) || 'en';

export async function speak(wanted) {
	texts = await (await fetch(`/i18n/${wanted}.json`)).json();
	lang = document.documentElement.lang = wanted;
	for (const node of all('[data-t]')) node.textContent = t(node.dataset.t);
	for (const node of all('[data-label]')) node.ariaLabel = t(node.dataset.label);
}

export async function choose(wanted) {
	await speak(wanted);
	keep('lang', wanted);
}

export const has = (key) => key in texts;

/** The text of a key with its {values}; one with plural forms chooses by `values.n`. */
export function t(key, values = {}) {
	const text = texts[key] ?? key;
	const chosen = typeof text === 'object' ? text[new Intl.PluralRules(lang).select(values.n)] ?? text.other : text;
	return chosen.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The parts of a text that has several. */
export const parts = (key) => texts[key] || texts['x.FAILED'];

export const moment = (ms, day = { dateStyle: 'long' }) => new Intl.DateTimeFormat(lang, { ...day, timeStyle: 'short' }).format(ms);
export const countryName = (code) => new Intl.DisplayNames(lang, { type: 'region' }).of(code);

export function span(seconds) {
	const [size, unit] = [[86400, 'day'], [3600, 'hour'], [60, 'minute'], [1, 'second']].find(([size]) => seconds >= size || size === 1);
	return new Intl.NumberFormat(lang, { style: 'unit', unit, unitDisplay: 'long', maximumFractionDigits: 0 }).format(seconds / size);
}
