// The committed package is what its source builds to. Where the toolchain is absent this is skipped, in CI too: installing
// it compiles wasm-pack for minutes. The unit tests notice a stale package everywhere, by the hash of its source.

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const script = fileURLToPath(new URL('../../scripts/build-codecs.mjs', import.meta.url))
const build = (option: string): string => execFileSync(process.execPath, [script, option], { encoding: 'utf8' }).trim()
const answer = build('--ready')
if (answer !== 'ready') console.warn(`skipped: ${answer}: npm run build:codecs installs what it can`)

test.skipIf(answer !== 'ready')('a build from source gives the committed package, to the last byte', () => {
  expect(build('--check')).toContain('The committed package is what its source builds to')
})
