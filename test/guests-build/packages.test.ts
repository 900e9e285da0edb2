/** Debian's package index, and machines that have no client for it. */
import { afterEach, describe, expect, test, vi } from 'vitest'
import { run } from '../../guests/command.ts'
import { hostArchitecture, parseIndex } from '../../guests/packages.ts'

afterEach(() => vi.unstubAllEnvs())

test('an index entry has the first alternative of each dependency, without versions and architectures', () => {
  const [kmod, ...others] = parseIndex(`Package: kmod
Architecture: i386
Version: 30+20221128-1
Section: admin
Pre-Depends: init-system-helpers (>= 1.54~)
Depends: libc6 (>= 2.34), libkmod2 (= 30) | other, python3:any,
Description: tools
 Depends: nothing
SHA256: 00ff

Package: seabios
Architecture: all
Version: 1.16.2-1
`)
  expect(kmod).toEqual({
    name: 'kmod',
    architecture: 'i386',
    version: '30+20221128-1',
    section: 'admin',
    sha256: '00ff',
    depends: ['init-system-helpers', 'libc6', 'libkmod2', 'python3'],
  })
  expect(others.map((one) => [one.name, one.depends])).toEqual([['seabios', []]])
})

test('where no package client exists, the error says what to pass instead', async () => {
  vi.stubEnv('PATH', '/nonexistent')
  await expect(hostArchitecture()).rejects.toThrow(/no Debian package client.*--disk.*--kernel and --initrd/)
})

describe('run', () => {
  test('gives what a program wrote', async () => {
    expect(await run('sh', ['-c', 'cat; echo $WORD'], { input: 'in ', env: { WORD: 'out' } })).toBe('in out\n')
  })

  test('an error carries the status and the last words', async () => {
    await expect(run('sh', ['-c', 'echo too bad >&2; exit 3'])).rejects.toThrow('sh ended with 3: too bad')
    await expect(run('/nonexistent/program', [])).rejects.toThrow('Cannot run /nonexistent/program')
  })
})
