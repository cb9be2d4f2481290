// The number field: country picker and the server's verdict. No phone rules live here.
import { app, left } from './state.js';
import { at, keep, kept, put } from './dom.js';
import { call } from './server.js';
import { calling, flag, guess } from './countries.js';
import { countryName, lang, soon, t } from './i18n.js';

const phone = at('phone');
const country = at('country');

let timer;
let readings = {}; // how numbers were read: country and number, to the number as its country writes it

export function fillCountries() {
	const chosen = country.value || kept('country') || guess();
	const { compare } = new Intl.Collator(lang);
	// The name comes first: that is what people type to find it in the list.
	const rows = [...calling.keys()].map((code) => [countryName(code), code]).sort((a, b) => compare(a[0], b[0]));
	country.replaceChildren(...rows.map(([name, code]) => new Option(`${name} ${flag(code)} +${calling.get(code)}`, code)));
	country.value = chosen;
	showCountry();
}

function showCountry() {
	put('country-shown', `${flag(country.value)} +${calling.get(country.value)}`);
}

export function verdict(kind, text) {
	at('verdict').className = kind;
	put('verdict', text);
	phone.ariaInvalid = kind === 'bad';
}

export async function judge() {
	const wish = { number: phone.value, country: country.value };
	if (!wish.number.trim() || !app.auth) return verdict('', '');
	const { status, data, grouped } = await call('POST', '/api/v1/phone', wish);
	if (wish.number !== phone.value || wish.country !== country.value) return;
	if (status === 200) {
		const home = data.country || wish.country;
		// Written as its country does, unless that would move the caret away.
		if (phone.selectionStart === wish.number.length) phone.value = grouped;
		for (const number of [wish.number, grouped]) readings[wish.country + number] = grouped;
		verdict('good', `${flag(home)} ${grouped}${home === wish.country ? '' : ` · ${countryName(home)}`}`);
	} else if (data.reason === 'too_short' && document.activeElement === phone && app.typed?.number !== wish.number) {
		verdict('', t('reason.unfinished'));
	} else if (status === 422) {
		verdict('bad', data.message || t('error'));
	}
}

export const typed = () => ({ number: phone.value, country: country.value });

// A number as it was read; as it was typed, if there was no reading.
export const asRead = ({ number, country }) => readings[country + number] || number;

export function clearField() {
	phone.value = '';
	readings = {};
	verdict('', '');
}

export function askButtons() {
	const n = left(app.hold);
	for (const [id, key] of [['get-code', 'phone.get'], ['new-code', 'code.new'], ['login-button', 'login.button']]) {
		put(id, n ? t('again', { when: soon(n) }) : t(app.pending ? 'wait' : key));
		at(id).ariaDisabled = Boolean(n || app.pending);
	}
}

phone.addEventListener('input', () => {
	clearTimeout(timer);
	timer = setTimeout(judge, 250);
});
phone.addEventListener('blur', judge);
country.addEventListener('change', () => {
	keep('country', country.value);
	showCountry();
	judge();
});
