// Made by `npm run build:codecs`; do not edit.

export const sourceHash = '7d4d7e51f82e88353b2128ac2ce933f305f75511952c9d983104a3276c07ae02'
