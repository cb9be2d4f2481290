// Questions in a <dialog>: the safe answer has the focus, and Escape is the safe answer.
import { at, on, put, show } from './dom.js';

const dialog = at('dialog');
const field = at('dialog-field');

on('dialog', ({ target }) => target.type === 'submit' && dialog.close(target.value));

let answer = () => {};
// The browser tells of a closing later: the next question may be open by then, and that one is answered already.
dialog.onclose = () => dialog.open || answer(dialog.returnValue === 'yes');

/** Resolves to true for the explicit yes alone. */
export function ask(h, p, yes, no) {
	// A question that is still open is answered safely.
	answer(false);
	put('dialog-h', h);
	put('dialog-p', p);
	put('dialog-yes', yes);
	put('dialog-no', no);
	dialog.returnValue = '';
	if (!dialog.open) dialog.showModal();
	at('dialog-no').focus();
	return new Promise((done) => { answer = done; });
}

export async function askName(h, value, yes, no) {
	field.value = value;
	look('main', 'quiet', true);
	const asked = ask(h, '', yes, no);
	field.select();
	const sure = await asked;
	look('grave', 'main', false);
	return sure && field.value.trim();
}

function look(yes, no, named) {
	at('dialog-yes').className = yes;
	at('dialog-no').className = no;
	show('dialog-field', named);
}

on('dialog-field', (event) => {
	if (event.key === 'Enter') {
		event.preventDefault();
		dialog.close('yes');
	}
}, 'keydown');
