/** The oldest v86 that block86 says it works with, fetched from npm into the cache. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe } from 'vitest'
import { cacheDirectory, folderOnce } from '../../guests/cache.ts'
import { run } from '../../guests/command.ts'
import { TESTED_VERSIONS } from '../../src/v86.ts'
import { machineSuite } from '../v86/suite.ts'

const [version] = TESTED_VERSIONS

async function fetchV86(): Promise<string> {
  await mkdir(join(cacheDirectory(), 'v86'), { recursive: true })
  const folder = await folderOnce(join(cacheDirectory(), 'v86', version), async (fresh) => {
    const [{ filename }] = JSON.parse(await run('npm', ['pack', `v86@${version}`, '--json'], { cwd: fresh }))
    await run('tar', ['-xzf', join(fresh, filename), '-C', fresh, '--strip-components=1'])
  })
  return join(folder, 'build')
}

const build = await fetchV86()
const { V86 } = await import(pathToFileURL(join(build, 'libv86.mjs')).href)

describe(`v86 ${version}`, () => machineSuite({ V86, wasm: join(build, 'v86.wasm') }))
