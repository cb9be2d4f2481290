// The page's HTTP calls. Status 0 means that the appliance did not answer.
import { lang } from './i18n.js';

export const SESSIONS = '/api/v1/sessions';

export async function call(method, path, body) {
	try {
		const answer = await fetch(path, {
			method,
			headers: { 'Accept-Language': lang, 'Content-Type': 'application/json' },
			body: body && JSON.stringify(body),
			signal: AbortSignal.timeout(10_000),
		});
		const text = await answer.text();
		return { status: answer.status, data: /json/.test(answer.headers.get('content-type')) && text ? JSON.parse(text) : {} };
	} catch {
		return { status: 0, data: {} };
	}
}
