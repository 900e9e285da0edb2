// The codecs against the tools that people have: openssl, zstd, gzip, cryptsetup and qemu-img.

import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { CipherOptions, HashName } from '../../src/codecs/contract.ts'
import { afMerge, argon2, codecs, createCipher, digest, pbkdf2 } from '../../src/codecs/index.ts'
import { wasm } from '../../src/codecs/wasm/index.ts'
import { ascii, diskLike, toHex } from '../codecs/paths.ts'
import { lacks } from '../tools.ts'

const disk = diskLike(3_000_000, 8)
let folder: string
const at = (name: string): string => path.join(folder, name)
const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'codecs-'))
  writeFileSync(at('disk'), disk)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe.skipIf(lacks('zstd'))('zstd', () => {
  test.each([1, 3, 6, 9, 15, 19])('what zstd packs at level %i, with and without checksum, we unpack', (level) => {
    for (const option of ['--check', '--no-check']) {
      run('zstd', '-q', '-f', `-${level}`, option, at('disk'), '-o', at('disk.zst'))
      expect(same(wasm.zstdDecompress(readFileSync(at('disk.zst')), disk.length), disk)).toBe(true)
    }
  })

  test('long windows, fast levels and streams of unknown size', () => {
    for (const options of ['--ultra -22', '--long=27', '--fast=5', '--no-content-size -3']) {
      const length = options.endsWith('-22') ? 200_000 : disk.length
      run('sh', '-c', `head -c ${length} ${at('disk')} | zstd -q ${options} -c > ${at('disk.zst')}`)
      const unpacked = wasm.zstdDecompress(readFileSync(at('disk.zst')), length)
      expect(same(unpacked, disk.subarray(0, length)), options).toBe(true)
    }
  })

  test.each([1, 2, 3, 4, 5, 7, 9, 19])('what we pack at level %i, zstd unpacks', (level) => {
    for (const length of [0, 1, 1000, 65_536, 131_073, 1_000_000]) {
      writeFileSync(at('ours.zst'), wasm.zstdCompress(disk.subarray(0, length), { level }))
      run('zstd', '-q', '-f', '-d', at('ours.zst'), '-o', at('ours'))
      expect(same(readFileSync(at('ours')), disk.subarray(0, length))).toBe(true)
    }
  })

  test('a frame larger than the largest window', () => {
    const large = diskLike(20_000_000, 9)
    writeFileSync(at('ours.zst'), wasm.zstdCompress(large, { level: 1 }))
    run('zstd', '-q', '-f', '-d', at('ours.zst'), '-o', at('ours'))
    expect(same(readFileSync(at('ours')), large)).toBe(true)
    run('zstd', '-q', '-f', '-3', at('ours'), '-o', at('ours.zst'))
    expect(same(wasm.zstdDecompress(readFileSync(at('ours.zst')), large.length), large)).toBe(true)
  })
})

describe.skipIf(lacks('gzip'))('gzip', () => {
  test('there and back', () => {
    run('sh', '-c', `gzip -9 -c ${at('disk')} > ${at('disk.gz')}`)
    expect(same(wasm.inflate(readFileSync(at('disk.gz')), disk.length, 'gzip'), disk)).toBe(true)
    writeFileSync(at('ours.gz'), wasm.deflate(disk, { framing: 'gzip' }))
    run('sh', '-c', `gzip -d -c ${at('ours.gz')} > ${at('ours')}`)
    expect(same(readFileSync(at('ours')), disk)).toBe(true)
  })
})

describe.skipIf(lacks('openssl'))('openssl', () => {
  test.each(['sha1', 'sha224', 'sha256', 'sha384', 'sha512'] as const)('%s', (hash) => {
    const [expected = ''] = run('openssl', 'dgst', `-${hash}`, '-r', at('disk')).split(' ')
    expect(toHex(wasm.digest(hash, disk))).toBe(expected)
  })

  test.each([128, 192, 256])('AES-%i-CBC, the IV being the number of the sector', (bits) => {
    const key = crypto.randomBytes(bits / 8)
    const iv = Buffer.alloc(16)
    iv.writeUInt32LE(77)
    writeFileSync(at('sector'), disk.subarray(0, 512))
    const args = [
      `-aes-${bits}-cbc`,
      '-nopad',
      '-K',
      toHex(key),
      '-iv',
      toHex(iv),
      '-in',
      at('sector'),
      '-out',
      at('out'),
    ]
    run('openssl', 'enc', ...args)
    const data = disk.slice(0, 512)
    wasm.createCipher({ mode: 'cbc', iv: 'plain64', key }).encrypt(data, 77)
    expect(same(readFileSync(at('out')), data)).toBe(true)
  })
})

/** A LUKS1 header's first key slot (On-Disk Format 1.2.3, 3), opened: the sector cipher and where its data begins. */
function openLuks1(image: Buffer, password: string): { cipher: CipherOptions; payload: number } {
  const text = (from: number): string => image.toString('latin1', from, image.indexOf(0, from))
  expect(image.toString('latin1', 0, 6)).toBe('LUKS\xba\xbe')
  const [mode = '', iv = ''] = text(40).split('-')
  const hash = text(72) as HashName
  const keyLength = image.readUInt32BE(108)
  const [kind = iv, essivHash = 'sha256'] = iv.split(':')
  const options = { mode: mode as 'xts' | 'cbc', iv: kind as 'plain64', essivHash: essivHash as HashName }
  const slot = 208
  const stripes = image.readUInt32BE(slot + 44)
  const slotKey = pbkdf2(
    hash,
    ascii(password),
    image.subarray(slot + 8, slot + 40),
    image.readUInt32BE(slot + 4),
    keyLength,
  )
  const start = image.readUInt32BE(slot + 40) * 512
  const material = new Uint8Array(image.subarray(start, start + Math.ceil((keyLength * stripes) / 512) * 512))
  createCipher({ ...options, key: slotKey }).decrypt(material, 0)
  const key = afMerge(hash, material.subarray(0, keyLength * stripes), stripes)
  const check = pbkdf2(hash, key, image.subarray(132, 164), image.readUInt32BE(164), 20)
  expect(toHex(check)).toBe(toHex(image.subarray(112, 132)))
  return { cipher: { ...options, key }, payload: image.readUInt32BE(104) * 512 }
}

describe.skipIf(lacks('qemu-img'))('qemu-img: LUKS images', () => {
  const kinds = [
    ['aes-256', 'xts', 'plain64', 'sha256'],
    ['aes-128', 'xts', 'plain64', 'sha1'],
    ['aes-128', 'cbc', 'plain64', 'sha512'],
    ['aes-256', 'cbc', 'plain', 'ripemd160'],
    ['aes-256', 'cbc', 'essiv', 'sha256'],
  ] as const

  test.each(kinds)('%s-%s-%s, %s: opened, decrypted, and encrypted again', (algorithm, mode, iv, hash) => {
    const options = [
      'key-secret=s',
      'iter-time=10',
      `cipher-alg=${algorithm}`,
      `cipher-mode=${mode}`,
      `ivgen-alg=${iv}`,
      `hash-alg=${hash}`,
      ...(iv === 'essiv' ? ['ivgen-hash-alg=sha256'] : []),
    ].join(',')
    run(
      ...(['qemu-img', 'convert', '-f', 'raw', '-O', 'luks', '--object', 'secret,id=s,data=sesame'] as const),
      ...(['-o', options, at('disk'), at('disk.luks')] as const),
    )
    const image = readFileSync(at('disk.luks'))
    const { cipher, payload } = openLuks1(image, 'sesame')
    const length = disk.length - (disk.length % 512)
    for (const path of [codecs, wasm]) {
      const data = new Uint8Array(image.subarray(payload, payload + length))
      path.createCipher(cipher).decrypt(data, 0)
      expect(same(data, disk.subarray(0, length))).toBe(true)
      path.createCipher(cipher).encrypt(data, 0)
      expect(same(data, image.subarray(payload, payload + length))).toBe(true)
    }
  })
})

describe.skipIf(lacks('cryptsetup'))('cryptsetup: key slots', () => {
  const format = (...options: string[]): Buffer => {
    writeFileSync(at('volume'), Buffer.alloc(20 << 20))
    writeFileSync(at('password'), 'open sesame')
    run(
      'cryptsetup',
      '-q',
      'luksFormat',
      '--pbkdf-force-iterations',
      ...options,
      '--key-file',
      at('password'),
      at('volume'),
    )
    return readFileSync(at('volume'))
  }
  const volumeKey = (): string => {
    const args = ['luksDump', '-q', '--dump-volume-key', '--key-file', at('password'), '--volume-key-file', at('key')]
    rmSync(at('key'), { force: true })
    run('cryptsetup', ...args, at('volume'))
    return toHex(readFileSync(at('key')))
  }

  test.each(['sha1', 'sha256', 'sha512', 'ripemd160'])('LUKS1 with %s', (hash) => {
    const image = format('1000', '--type', 'luks1', '--hash', hash)
    expect(toHex(openLuks1(image, 'open sesame').cipher.key)).toBe(volumeKey())
  })

  test.each(['argon2i', 'argon2id'] as const)('LUKS2 with %s', (kind) => {
    const cost = ['--pbkdf-memory', '4096', '--pbkdf-parallel', '2']
    const image = format('4', '--type', 'luks2', '--pbkdf', kind, ...cost)
    const json = JSON.parse(image.toString('utf8', 4096, image.indexOf(0, 4096)))
    const { kdf, area, af, key_size: keySize } = json.keyslots[0]
    const password = ascii('open sesame')
    const salt = Buffer.from(kdf.salt, 'base64')
    const { time: iterations, memory, cpus: lanes } = kdf
    expect(kdf.type).toBe(kind)
    const slotKey = argon2({ kind, password, salt, iterations, memory, lanes, length: area.key_size })
    const size = Math.ceil((keySize * af.stripes) / 512) * 512
    const material = new Uint8Array(image.subarray(Number(area.offset), Number(area.offset) + size))
    expect(area.encryption).toBe('aes-xts-plain64')
    createCipher({ mode: 'xts', key: slotKey }).decrypt(material, 0)
    const key = afMerge(af.hash, material.subarray(0, keySize * af.stripes), af.stripes)
    expect(toHex(key)).toBe(volumeKey())
    const { hash, salt: digestSalt, iterations: digestIterations, digest: expected } = json.digests[0]
    const check = pbkdf2(hash, key, Buffer.from(digestSalt, 'base64'), digestIterations, digest(hash, key).length)
    expect(Buffer.from(check).toString('base64')).toBe(expected)
  })
})
