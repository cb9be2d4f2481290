// Questions in a <dialog>: the safe answer has the focus, and Escape is the safe answer.
import { all, at, put, show } from './dom.js';

for (const dialog of all('dialog')) {
	dialog.addEventListener('click', ({ target }) => target.value && target.type === 'submit' && dialog.close(target.value));
}

/** Resolves to true for the explicit yes alone. */
export function ask(name, h, p, yes, no) {
	const dialog = at(`${name}-dialog`);
	put(`${name}-h`, h);
	put(`${name}-p`, p);
	put(`${name}-yes`, yes);
	put(`${name}-no`, no);
	dialog.returnValue = '';
	if (!dialog.open) dialog.showModal();
	at(`${name}-no`).focus();
	return new Promise((done) => {
		dialog.onclose = () => done(dialog.returnValue === 'yes');
	});
}

export async function askName(h, value, yes, no) {
	const field = at('confirm-field');
	field.value = value;
	at('confirm-yes').className = 'main';
	at('confirm-no').className = 'quiet';
	show('confirm-field', true);
	field.onkeydown = (event) => {
		if (event.key !== 'Enter') return;
		event.preventDefault();
		at('confirm-dialog').close('yes');
	};
	const answer = ask('confirm', h, '', yes, no);
	field.focus();
	field.select();
	const sure = await answer;
	show('confirm-field', false);
	at('confirm-yes').className = 'grave';
	at('confirm-no').className = 'main';
	return sure && field.value.trim();
}
