// Made by `npm run build:codecs`; do not edit.

export const source =
  'b5b2afa06dbc75c5faa117811728a025f87a7ecc62b135a744f893b202e4d063'
