// Made by `npm run build:codecs`; do not edit.

export const sourceHash = '6e04a6a99e105f839f8506517a2d2064118756bcc38fe296a6bb2d8de66a3816'
