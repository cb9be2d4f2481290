// The HTTP calls of the page. Every answer is {status, data}; status 0 means that the appliance did not answer.
import { lang } from './i18n.js';

export async function call(method, path, body) {
  try {
    const answer = await fetch(path, {
      method,
      headers: { 'Accept-Language': lang, ...(body && { 'Content-Type': 'application/json' }) },
      body: body && JSON.stringify(body),
      cache: 'no-store',
      signal: AbortSignal.timeout?.(10_000),
    });
    const json = /json/.test(answer.headers.get('content-type') || '');
    return { status: answer.status, data: json ? await answer.json() : null, after: Number(answer.headers.get('retry-after')) || null };
  } catch {
    return { status: 0, data: null };
  }
}

export const session = (id) => `/api/v1/sessions/${encodeURIComponent(id)}`;
