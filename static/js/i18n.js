// The page's languages: texts, plural forms, numbers and times. A new language is one file in /i18n and one line here.
import { keep, kept } from './memory.js';

export const LANGUAGES = [
  ['ru', 'Русский'],
  ['en', 'English'],
];

let texts = {};
let plurals;
export let lang = 'en';

const known = (tag) => LANGUAGES.some(([code]) => code === tag);

export function firstLanguage(house) {
  const wish = [kept('language'), house, ...(navigator.languages || [])];
  return wish.map((tag) => (tag || '').slice(0, 2)).find(known) || 'en';
}

export async function speak(wanted, remember) {
  const answer = await fetch(`/i18n/${wanted}.json`);
  if (!answer.ok) throw new Error(`no texts for ${wanted}`);
  texts = await answer.json();
  lang = wanted;
  plurals = new Intl.PluralRules(lang);
  if (remember) keep('language', lang);
  document.documentElement.lang = lang;
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll('[data-t-label]')) node.setAttribute('aria-label', t(node.dataset.tLabel));
}

export const has = (key) => key in texts;

/** The text of a key, `{name}` filled from `values`; a text with plural forms chooses by `values.n`. */
export function t(key, values = {}) {
  let text = texts[key] ?? key;
  if (typeof text === 'object') text = text[plurals.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === 'number' ? number(value) : value ?? '';
  });
}

export const number = (n) => new Intl.NumberFormat(lang).format(n);
export const time = (ms) => new Intl.DateTimeFormat(lang, { timeStyle: 'short' }).format(ms);
export const countryName = (code) => {
  try { return new Intl.DisplayNames(lang, { type: 'region' }).of(code); } catch { return code; }
};

/** "today at 14:05", "yesterday at 9:10", or the date with the time. */
export function moment(ms) {
  const day = (at) => new Date(at).setHours(0, 0, 0, 0);
  const days = Math.round((day(ms) - day(Date.now())) / 864e5);
  if (Math.abs(days) > 1) return new Intl.DateTimeFormat(lang, { dateStyle: 'long', timeStyle: 'short' }).format(ms);
  const word = new Intl.RelativeTimeFormat(lang, { numeric: 'auto' }).format(days, 'day');
  return t('day.at', { day: word, time: time(ms) });
}

/** A length of time in its largest fitting unit: "3 days", "5 minutes". */
export function span(seconds) {
  const [unit, size] = [['day', 86400], ['hour', 3600], ['minute', 60], ['second', 1]].find(([, s]) => seconds >= s) || ['second', 1];
  return new Intl.NumberFormat(lang, { style: 'unit', unit, unitDisplay: 'long' }).format(Math.round(seconds / size));
}
