// Made by `npm run build:codecs`; do not edit.

export const sourceHash = '9b60354c9978d12f45eb38a21c390c632b58157618ae4ad2bcb6328cafeaec57'
