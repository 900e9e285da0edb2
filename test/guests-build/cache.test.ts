/** The cache: what is not whole is not there. */
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { cacheDirectory, fingerprint, folderOnce, withLock } from '../../guests/cache.ts'
import { temporaryFolder } from '../tools.ts'

let folder: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  folder = temporaryFolder()
})
afterEach(() => {
  folder.remove()
  vi.unstubAllEnvs()
})

describe('folderOnce', () => {
  const fill = async (fresh: string) => writeFile(join(fresh, 'file'), 'whole')

  test('fills a folder the first time only', async () => {
    const target = folder.file('a')
    let fills = 0
    const counted = (fresh: string) => {
      fills++
      return fill(fresh)
    }
    expect(await folderOnce(target, counted)).toBe(target)
    expect(await folderOnce(target, counted)).toBe(target)
    expect(fills).toBe(1)
    expect(await readFile(join(target, 'file'), 'utf8')).toBe('whole')
  })

  test('two that come at once fill it once', async () => {
    let fills = 0
    const counted = (fresh: string) => {
      fills++
      return fill(fresh)
    }
    await Promise.all([folderOnce(folder.file('a'), counted), folderOnce(folder.file('a'), counted)])
    expect(fills).toBe(1)
  })

  test('what could not be filled is not there', async () => {
    const target = folder.file('a')
    const failing = async (fresh: string) => {
      await fill(fresh)
      throw new Error('out of luck')
    }
    await expect(folderOnce(target, failing)).rejects.toThrow('out of luck')
    expect(existsSync(target)).toBe(false)
    await folderOnce(target, fill)
    expect(existsSync(target)).toBe(true)
  })

  test('what a killed process left behind is removed, whatever it was to become', async () => {
    const rest = folder.file('b.unfinished')
    await mkdir(rest)
    await writeFile(join(rest, 'file'), 'half')
    await folderOnce(folder.file('a'), fill)
    expect(existsSync(rest)).toBe(false)
  })
})

describe('withLock', () => {
  test('one after the other under one path', async () => {
    const seen: string[] = []
    const work = (name: string) =>
      withLock(folder.file('lock'), async () => {
        seen.push(`${name} in`)
        await new Promise((done) => setTimeout(done, 20))
        seen.push(`${name} out`)
      })
    await Promise.all([work('a'), work('b')])
    expect(seen.map((line) => line.split(' ')[1])).toEqual(['in', 'out', 'in', 'out'])
  })

  test('is given back when the work fails', async () => {
    const failing = () => withLock(folder.file('lock'), () => Promise.reject(new Error('no')))
    await expect(failing()).rejects.toThrow('no')
    expect(await withLock(folder.file('lock'), async () => 'yes')).toBe('yes')
  })
})

test('BLOCK86_CACHE says where the cache is; otherwise it is beside package.json', () => {
  vi.stubEnv('BLOCK86_CACHE', folder.path)
  expect(cacheDirectory()).toBe(folder.path)
  vi.stubEnv('BLOCK86_CACHE', '')
  expect(existsSync(join(cacheDirectory(), '../package.json'))).toBe(true)
})

test('a fingerprint tells parts apart by where they end', () => {
  expect(fingerprint('ab', 'c')).not.toBe(fingerprint('a', 'bc'))
  expect(fingerprint('ab', 'c')).toMatch(/^[0-9a-f]{16}$/)
})
