// What the server writes in: its settings, each language with a file in /i18n, and the plan's calling codes.
export const house = { language: '', country: 'RU', languages: {}, calling: '' };
