// Questions in a <dialog>: the safe answer has the focus, and Escape is the safe answer.
import { all, at, put } from './dom.js';

const open = (dialog) => new Promise((done) => {
	dialog.returnValue = '';
	dialog.onclose = () => done(dialog.returnValue === 'yes');
	if (!dialog.open) dialog.showModal();
});

for (const dialog of all('dialog')) {
	dialog.addEventListener('click', ({ target }) => target.value && target.type === 'button' && dialog.close(target.value));
}

export function ask(name, h, p, yes, no) {
	put(`${name}-h`, h);
	put(`${name}-p`, p);
	put(`${name}-yes`, yes);
	put(`${name}-no`, no);
	return open(at(`${name}-dialog`));
}

export async function askName(h, value = '') {
	put('name-h', h);
	at('name-field').value = value;
	return await open(at('name-dialog')) && at('name-field').value.trim();
}

export function closeAll() {
	for (const dialog of all('dialog[open]')) dialog.close('no');
}
