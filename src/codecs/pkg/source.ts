// Made by `npm run build:codecs`; do not edit.

export const sourceHash = 'd3805475c5d5639c373c0829b3e535e2a14597acff3b56b946013211340034f8'
