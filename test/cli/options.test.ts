/** Command lines, sizes and option strings as QEMU's tools read them. */
import { describe, expect, test } from 'vitest'
import { getopt, type Option } from '../../src/cli/getopt.ts'
import { parseFileName, parseJsonName, parseKeyValues, treeOf } from '../../src/cli/node-options.ts'
import { humanSize, parseSize } from '../../src/cli/units.ts'

describe('getopt', () => {
  const known: Option[] = [
    { short: 'f', long: 'format', value: true },
    { short: 'q', long: 'quiet' },
    { short: 'p' },
    { long: 'force-share' },
    { long: 'output', value: true },
  ]

  test('takes options before, between and after operands, in their order', () => {
    const parsed = getopt(['a', '-qp', '-fraw', 'b', '--output=json', '-f', 'qcow2', '--', '-q'], known)
    expect(parsed.operands).toEqual(['a', 'b', '-q'])
    expect(parsed.options.map(({ key, value }) => [key, value])).toEqual([
      ['quiet', ''],
      ['p', ''],
      ['format', 'raw'],
      ['output', 'json'],
      ['format', 'qcow2'],
    ])
    expect([parsed.last('format'), parsed.all('format'), parsed.has('quiet'), parsed.last('nothing')]).toEqual([
      'qcow2',
      ['raw', 'qcow2'],
      true,
      undefined,
    ])
  })

  test('a lone dash is an operand, a prefix is its option', () => {
    expect(getopt(['-', '--out', 'x'], known)).toMatchObject({
      operands: ['-'],
      options: [{ key: 'output', value: 'x' }],
    })
  })

  test.each([
    [['-x'], "invalid option -- 'x'"],
    [['-f'], "option requires an argument -- 'f'"],
    [['--bogus'], "unrecognized option '--bogus'"],
    [['--quiet=1'], "option '--quiet' doesn't allow an argument"],
    [['--output'], "option '--output' requires an argument"],
    [['--fo'], "option '--fo' is ambiguous; possibilities: '--format' '--force-share'"],
  ])('%j: %s', (argv, message) => {
    expect(() => getopt(argv, known)).toThrow(message)
  })
})

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['512', 512],
    ['1k', 1024],
    ['1K', 1024],
    ['1.5G', 1.5 * 2 ** 30],
    ['0x1000', 4096],
    ['0x10k', 16384],
    ['64M', 64 << 20],
    ['2T', 2 ** 41],
    ['1b', 1],
    ['-1', undefined],
    ['1.5', undefined],
    ['1x', undefined],
    ['', undefined],
    ['9E', undefined],
  ])('%s is %s bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  test.each([
    [0, '0 B'],
    [196_616, '192 KiB'],
    [67_108_864, '64 MiB'],
    [1_073_741_824, '1 GiB'],
    [1_048_064, '1 MiB'],
    [5_368_709_120, '5 GiB'],
    [1_500_000, '1.43 MiB'],
  ])('%d bytes are shown as %s', (bytes, text) => {
    expect(humanSize(bytes)).toBe(text)
  })
})

describe('option strings', () => {
  test('split at commas; a doubled one is a comma', () => {
    expect(parseKeyValues('file=a,,b,format=raw,if=')).toEqual([
      ['file', 'a,b'],
      ['format', 'raw'],
      ['if', ''],
    ])
    expect(parseKeyValues('tls-creds-psk,id=x', 'qom-type')).toEqual([
      ['qom-type', 'tls-creds-psk'],
      ['id', 'x'],
    ])
    expect(() => parseKeyValues('a=b,word')).toThrow("Expected '=' after parameter 'word'")
  })

  test('dots make a tree', () => {
    expect(treeOf(parseKeyValues('driver=qcow2,file.driver=file,file.filename=x'))).toEqual({
      driver: 'qcow2',
      file: { driver: 'file', filename: 'x' },
    })
    expect(() =>
      treeOf([
        ['a', '1'],
        ['a.b', '2'],
      ]),
    ).toThrow("below 'a'")
  })

  test('no name in them reaches a prototype', () => {
    treeOf([['__proto__.polluted', 'yes']])
    parseJsonName('json:{"__proto__.polluted": "yes", "constructor.prototype.polluted": "yes"}')
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })

  test('json: names, also with dotted keys', () => {
    expect(parseJsonName('json:{"driver":"raw","file.filename":"x","offset":512}')).toEqual({
      driver: 'raw',
      file: { filename: 'x' },
      offset: 512,
    })
    expect(() => parseJsonName('json:[1]')).toThrow('not an object')
    expect(() => parseJsonName('json:{')).toThrow('Could not parse the JSON options')
  })

  test.each([
    ['plain.img', 'plain.img'],
    ['blkdebug::x.img', { driver: 'blkdebug', image: { filename: 'x.img' } }],
    ['blkdebug:rules.conf:x.img', { driver: 'blkdebug', config: 'rules.conf', image: { filename: 'x.img' } }],
    ['blkverify:raw.img:x.img', { driver: 'blkverify', raw: { filename: 'raw.img' }, test: { filename: 'x.img' } }],
  ])('file name %s', (name, meaning) => {
    expect(parseFileName(name)).toEqual(meaning)
  })
})
