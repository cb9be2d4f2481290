// What the appliance's settings say: the server writes them in.
export const house = { language: '', country: 'RU' };
