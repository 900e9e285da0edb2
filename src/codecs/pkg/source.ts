// Made by `npm run build:codecs`; do not edit.

export const sourceHash = 'b5fe63436d6181d21bb9f3c512d34cc82bdf2d6399be49d9626456c21b3650f7'
