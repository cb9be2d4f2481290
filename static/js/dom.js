// Helpers over the document and the browser's memory (never for a number, code or key).
export const at = (id) => document.getElementById(id);
export const all = (selector) => document.querySelectorAll(selector);
export const on = (id, act, what = 'click') => at(id).addEventListener(what, act);
export const show = (id, yes) => { at(id).hidden = !yes; };
export const make = (tag, text, more) => Object.assign(document.createElement(tag), { textContent: text }, more);

export function put(id, text = '') {
	if (at(id).textContent !== text) at(id).textContent = text;
}

export function say(text) {
	put('live');
	setTimeout(put, 60, 'live', text);
}

export function keep(name, value) {
	try { localStorage[name] = value; } catch { /* no memory */ }
}

export function kept(name) {
	try { return localStorage[name]; } catch { /* no memory */ }
}
