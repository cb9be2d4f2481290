// The number field: country picker and the server's verdict while somebody types. No phone rules live here.
import { app, left } from './state.js';
import { call } from './api.js';
import { calling, flag, guess, pretty } from './countries.js';
import { countryName, has, lang, t } from './i18n.js';
import { keep, kept } from './memory.js';

const at = (id) => document.getElementById(id);
const PATIENCE = 250;
const phone = at('phone');
const country = at('country');
const verdict = at('verdict');

let timer = 0;
let asked = 0;
let reading = null; // {number, country, e164?} of the last answer

export function fillCountries(house) {
  const chosen = country.value || kept('country') || guess(house);
  const order = new Intl.Collator(lang).compare;
  const rows = [...calling.keys()].map((code) => [code, countryName(code)]).sort((a, b) => order(a[1], b[1]));
  country.replaceChildren(...rows.map(([code, name]) => new Option(`${flag(code)} ${name} +${calling.get(code)}`, code)));
  country.value = calling.has(chosen) ? chosen : 'RU';
  showCountry();
}

function showCountry() {
  at('country-shown').textContent = `${flag(country.value)} +${calling.get(country.value)}`;
}

function say(kind, text) {
  verdict.className = kind;
  if (verdict.textContent !== text) verdict.textContent = text;
  phone.setAttribute('aria-invalid', kind === 'bad');
}

async function judge() {
  const number = phone.value;
  const turn = ++asked;
  if (!number.trim()) return say('', '');
  const place = country.value;
  const { status, data } = await call('POST', '/api/v1/phone', { number, country: place });
  if (turn !== asked || !status) return;
  reading = { number, country: place, e164: status === 200 ? data?.e164 : null };
  if (reading.e164) {
    const home = data.country && data.country !== place;
    const shown = `${flag(data.country || place)} ${data.international || pretty(data.e164, data.country || place)}`;
    say('good', home ? `${shown} · ${countryName(data.country)}` : shown);
  } else if (status === 422) {
    // A number that is merely not finished is no mistake while it is being typed.
    const unfinished = data?.reason === 'too_short' && document.activeElement === phone;
    if (unfinished) say('', t('reason.unfinished'));
    else say('bad', has(`reason.${data?.reason}`) ? t(`reason.${data.reason}`) : data?.message || data?.detail || '');
  }
}

export function refreshVerdict() {
  if (app.auth) judge();
}

export function emptyVerdict() {
  say('bad', t('reason.empty'));
  phone.focus();
}

/** What to ask for: the field's content, with the server's reading of it when there is one. */
export function typed() {
  const number = phone.value.trim();
  const same = reading?.number === phone.value && reading.country === country.value;
  return { number, country: country.value, e164: same ? reading.e164 : null };
}

export const shownNumber = ({ number, country: place, e164 }) => (e164 ? pretty(e164, place) : number);

export function blame() {
  phone.setAttribute('aria-invalid', 'true');
  phone.focus();
}

export function clearField() {
  phone.value = '';
  say('', '');
}

/** The buttons that ask for a code: busy while we wait, counting while waiting is all there is. */
export function askButtons() {
  const wait = left(app.hold);
  for (const [id, key] of [['get-code', 'phone.get'], ['new-code', 'code.new'], ['login-button', 'login.button']]) {
    const button = at(id);
    const text = wait ? t('again', { n: wait }) : t(app.pending ? 'phone.asking' : key);
    if (button.textContent !== text) button.textContent = text;
    button.setAttribute('aria-disabled', Boolean(wait || app.pending));
  }
}

phone.addEventListener('input', () => {
  clearTimeout(timer);
  timer = setTimeout(judge, PATIENCE);
});
phone.addEventListener('blur', () => phone.value.trim() && judge());
country.addEventListener('change', () => {
  keep('country', country.value);
  showCountry();
  judge();
});
