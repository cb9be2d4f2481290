// Calling codes and flags, for the eye only: the server reads numbers.
import { house } from './house.js';

export const calling = new Map();
for (const [, code, group] of house.calling.matchAll(/(\d+)(\D+)/g)) {
	for (const country of group.match(/../g)) calling.set(country, code);
}

// Where no font has flags (Windows, a bare Linux) two letters would be drawn side by side: better plain ones.
const sign = (country) => String.fromCodePoint(...[...country].map((c) => 0x1f1a5 + c.charCodeAt(0)));
const pen = document.createElement('canvas').getContext('2d');
const hasFlags = pen.measureText(sign('RU')).width < 1.5 * pen.measureText(sign('R')).width;
export const flag = (country) => (hasFlags ? sign(country) : country);

// Plain and American English say nothing about the place.
export function guess() {
	for (const tag of navigator.languages.filter((one) => !/^en(-US)?$/.test(one))) {
		const { region } = new Intl.Locale(tag).maximize();
		if (calling.has(region)) return region;
	}
	return house.country;
}
