/** `block86 io` beside qemu-io: the same command lines on the same images print the same and leave the same. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runIo } from '../../src/cli/io/index.ts'
import { lacks, temporaryFolder } from '../tools.ts'

interface Ran {
  readonly out: string
  readonly err: string
  readonly status: number | null
}

/** What cannot be the same, made equal: times, and the name of the program. */
function normal(text: string): string {
  return text
    .replace(/^qemu-io: /gm, 'block86: ')
    .replace(/(ops; ).*$/gm, '$1TIME')
    .replace(/^(\d+,1),0:00:.*$/gm, '$1,TIME')
}

function normalRan({ out, err, status }: Ran): Ran {
  return { out: normal(out), err: normal(err), status }
}

let folder: ReturnType<typeof temporaryFolder>
let home: string
beforeAll(() => {
  folder = temporaryFolder()
  home = process.cwd()
  spawnSync('qemu-img', ['create', '-q', '-f', 'raw', folder.file('raw'), '4M'])
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', folder.file('qcow2'), '4M'])
  spawnSync('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', 'base', '-F', 'raw', folder.file('over'), '4M'], {
    cwd: folder.path,
  })
})
afterAll(() => folder.remove())

async function ours(args: readonly string[], input: string): Promise<Ran> {
  let out = ''
  let err = ''
  const status = await runIo(args, '0', {
    out: { write: (text) => void (out += text) },
    err: { write: (text) => void (err += text) },
    input: Readable.from([input]),
  })
  return { out, err, status }
}

function theirs(args: readonly string[], input: string, cwd: string): Ran {
  const ran: SpawnSyncReturns<string> = spawnSync('qemu-io', args, { cwd, input, encoding: 'utf8', timeout: 20_000 })
  return { out: ran.stdout, err: ran.stderr, status: ran.status }
}

/** Runs both in folders of their own that hold the same files, and compares what they say, how they end, and what is there. */
async function compare(
  args: readonly string[],
  given: {
    readonly input?: string
    readonly files?: Readonly<Record<string, string | Uint8Array>>
    readonly except?: readonly string[]
  } = {},
): Promise<void> {
  const { input = '', files = {}, except = [] } = given
  const places = ['theirs', 'ours'].map((name) => folder.file(name))
  for (const place of places) {
    fs.rmSync(place, { recursive: true, force: true })
    fs.mkdirSync(place)
    for (const name of ['raw', 'qcow2', 'over']) fs.copyFileSync(folder.file(name), `${place}/${name}`)
    fs.writeFileSync(`${place}/base`, new Uint8Array(2 << 20).fill(0xb5))
    for (const [name, content] of Object.entries(files)) fs.writeFileSync(`${place}/${name}`, content)
  }
  const expected = theirs(args, input, places[0]!)
  process.chdir(places[1]!)
  let found: Ran
  try {
    found = await ours(args, input)
  } finally {
    process.chdir(home)
  }
  expect(normalRan(found)).toEqual(normalRan(expected))
  for (const name of fs.readdirSync(places[0]!).filter((each) => !except.includes(each))) {
    const format = name === 'qcow2' || name === 'over' ? 'qcow2' : 'raw'
    const [left, right] = places.map((place) => `${place}/${name}`)
    if (format === 'raw') {
      expect(fs.readFileSync(right!).equals(fs.readFileSync(left!)), `content of ${name}`).toBe(true)
      continue
    }
    const same = spawnSync('qemu-img', ['compare', '-f', format, '-F', format, left!, right!], { encoding: 'utf8' })
    expect(same.stdout, `content of ${name}`).toMatch(/identical/)
    const checked = spawnSync('qemu-img', ['check', '-f', format, right!], { encoding: 'utf8' })
    expect(checked.status, checked.stdout).toBe(0)
  }
}

/** Options that give the commands one by one. */
const each = (...commands: readonly string[]) => commands.flatMap((command) => ['-c', command])

describe.skipIf(lacks('qemu-io', 'qemu-img'))('one command', () => {
  test.each([
    ...['read 0 4k', 'r 0 4k', 'read 0 0', 'read 1.5k 512', 'read 0x10 010', 'read -C 0 4k', 'read -q 0 4k'],
    ...['read -v 0 64', 'read -v 3 21', 'read -vC 0 5', 'read -P 0 0 4k', 'read -P 1 0 4k', 'read -P 0x0 0 2'],
    ...['read -P 0 -s 512 -l 512 0 4k', 'read -P 1 -s 512 -l 512 0 4k', 'read -P 0 -s 4000 -l 512 0 4k'],
    ...['read -P 0 -l 20 0 16', 'read -P 0 -s 17 0 16', 'read -s 1 0 5', 'read -l 3 0 16', 'read -p 0 512'],
    ...['read -P 300 0 4k', 'read -P x 0 4k', 'read -P 0x1ff 0 2', 'read -P 08 0 1', 'read -P -1 0 1', 'read'],
    ...['read 0', 'read foo 4k', 'read 0 foo', 'read 0 9E', 'read 0 8E', 'read 0 7E', 'read 7E 1', 'read 0 4G'],
    ...['read 4M 1', 'read 3M 2M', 'read -1 4', 'read 0 -- -4', 'read -x 0 4k', 'read 0 1 2', 'read 0 1.5'],
    ...['read 0 1kk', 'read 0 1e3', 'read -abCqv 0 16', 'read -P', 'read -b 0 4k', 'read -b 1 4k', 'read -b 0 1'],
    ...['readv 0 1k 2k 3k', 'readv -v 0 32 16', 'readv -P 0 0 3k', 'readv -P 2 0 1k 2k', 'readv 0 3G'],
    ...['readv 0 1G 1G 1G', 'readv 0', 'readv -P 3 0', 'readv 0 x', 'readv 3M 1M 1', 'readv -q 0 512 512'],
    ...['write 0 4k', 'w 0 4k', 'write -P 0x55 0 4k', 'write -P 010 0 1', 'write -p 0 512', 'write 1000 5000'],
    ...['write -z 0 64k', 'write -z -u 0 64k', 'write -u 0 64k', 'write -n 0 64k', 'write -z -n 0 4k', 'write 0 0'],
    ...['write -c 0 64k', 'write -f 0 4k', 'write -b 0 4k', 'write -b -z 0 4k', 'write -f -c 0 4k', 'write -q 0 4k'],
    ...['write -z -P 1 0 4k', 'write -s nofile 0 4k', 'write -s . 0 4k', 'write -c 1 512', 'write -c 512 1'],
    ...['write -b 1 512', 'write 0 3G', 'write -z 0 3G', 'write 4M 1', 'write 3M 2M', 'write -C 0 4k', 'write 0'],
    ...['writev -P 1 0 1k 2k', 'writev -f 0 512', 'writev -P 3 0', 'writev 0 x', 'writev 4M 512', 'writev -x 0 1'],
    ...['aio_read 0 4k', 'aio_read -P 1 0 4k', 'aio_read -v 0 16', 'aio_read -i 0 4k', 'aio_read 0', 'aio_read 5G 1'],
    ...['aio_write 0 4k', 'aio_write -i 0 4k', 'aio_write -z 0 4k', 'aio_write -u 0 4k', 'aio_write -z 0 4k 4k'],
    ...['aio_write -P 7 512 512 1k', 'aio_write -zu 0 64k', 'aio_write -f 0 4k', 'aio_write -c 0 4', 'aio_write 4M 1'],
    ...['aio_flush', 'aio_flush x', 'discard 0 4k', 'discard 1 5', 'discard 4M 4k', 'discard -C 0 4k', 'd -q 0 4k'],
    ...['discard 0', 'discard x 1', 'discard 0 x', 'discard 0 3G', 'discard -x 0 1', 'flush', 'f', 'flush x'],
    ...['length', 'l', 'length x', 'info', 'i', 'info x', 'map', 'map x', 'alloc 0', 'alloc 0 4k', 'alloc 4M 1'],
    ...['alloc x', 'alloc 1 2 3', 'alloc 3M 4M', 'a 0 8M', 'alloc 0 0', 'truncate 8M', 't 5M', 'truncate -m full 9M'],
    ...['truncate -m falloc 9M', 'truncate -m metadata 9M', 'truncate -m bad 9M', 'truncate x', 'truncate -x 4'],
    ...[
      'truncate 1M',
      'truncate -m full 1M',
      'truncate 512 1k',
      'truncate',
      'sleep 1',
      'sleep x',
      'sleep -5',
      'sleep 1x',
      'sleep',
    ],
    ...['foo', '', '   ', 'help foo', 'help x y', 'help', '?', 'help read', 'help write', 'help aio_write', 'help map'],
    ...['? readv', 'help w', 'help quit', 'help aio_read', 'help writev', 'help discard', 'help sigraise'],
    ...['close', 'c', 'close x', 'break', 'break a b c', 'break flush_to_os A', 'resume A', 'remove_break A'],
    ...['open', 'open raw', 'open -x a', 'open -t bad raw', 'reopen', 'reopen -r', 'reopen -r -w', 'reopen -c foo'],
    ...['reopen -c none', 'reopen -o foo=bar', 'reopen x', 'reopen -w', 'sigraise x', 'sigraise 0', 'quit', 'q x'],
  ])('%j', async (command) => {
    await compare(['-f', 'raw', '-c', command, 'raw'])
  })
})

describe.skipIf(lacks('qemu-io', 'qemu-img'))('the program', () => {
  test.each([
    [['nofile']],
    [['-f', 'raw', 'nofile', '-c', 'length']],
    [['-f', 'qcow2', '-c', 'length', 'raw']],
    [['-f', 'bogus', '-c', 'length', 'raw']],
    [['-c', 'length', 'raw']],
    [['-c', 'length', 'qcow2']],
    [['-c', 'length']],
    [['-c', 'read 0 1']],
    [['-c', 'help nothing', '-c', 'sleep 0']],
    [['-t', 'bad', 'raw']],
    [['-i', 'bad', 'raw']],
    [['-d', 'bad', 'raw']],
    [['--image-opts', '-f', 'raw', '-c', 'length', 'driver=raw,file.filename=raw']],
    [['--image-opts', '-c', 'length', 'driver=raw,file.filename=raw']],
    [['--image-opts', '-c', 'length', 'driver=raw,file.filename=nofile']],
    [['--image-opts', '-c', 'length', 'driver=bogus']],
    [['-r', '-f', 'raw', ...each('write 0 4k', 'discard 0 4k', 'write -z 0 4k', 'truncate 1M', 'read 0 512'), 'raw']],
    [['-f', 'raw', ...each('foo', 'length'), 'raw']],
    [['-f', 'raw', ...each('quit', 'length'), 'raw']],
    [
      [
        '-f',
        'raw',
        ...each('close', 'length', 'read 0 1', 'close', 'map', 'open nofile', 'open -r raw', 'length', 'c'),
        'raw',
      ],
    ],
    [
      [
        '-f',
        'raw',
        ...each('close', 'open -o driver=raw raw', 'length', 'open raw', 'close', 'open -o driver=qcow2 qcow2', 'info'),
        'raw',
      ],
    ],
    [
      [
        '-f',
        'raw',
        ...each('reopen -r', 'write 0 4k', 'reopen -w', 'write 0 4k', 'reopen -c writethrough', 'write 4k 4k'),
        'raw',
      ],
    ],
    [
      [
        '-n',
        '-f',
        'raw',
        ...each('write -P 5 0 64k', 'write -P 6 1000 3000', 'read -P 6 1000 3000', 'read -P 5 4k 1k'),
        'raw',
      ],
    ],
    [['-t', 'writethrough', '-f', 'qcow2', ...each('write -P 5 0 64k', 'read -P 5 0 64k'), 'qcow2']],
    [['-t', 'unsafe', '-k', '-U', '-f', 'raw', ...each('write -P 5 0 64k', 'flush'), 'raw']],
    [['-d', 'unmap', '-f', 'raw', ...each('write -P 5 0 64k', 'discard 0 4k', 'read -P 0 0 4k'), 'raw']],
    [['-s', '-f', 'raw', ...each('write -P 9 0 64k', 'read -P 9 0 64k', 'flush'), 'raw']],
    [['-C', '-f', 'qcow2', ...each('map', 'read -P 0xb5 0 64k', 'read -P 0xb5 1M 4k', 'map'), 'over']],
  ])('%j', async (args) => {
    await compare(args)
  })

  test('commands from standard input, with its prompt', async () => {
    const input = 'length\nread 0 512\nfoo\n\n  write -P 3   0 1k\nread -v 1k 20\nquit\nlength\n'
    await compare(['-f', 'raw', 'raw'], { input })
    await compare(['-f', 'raw', 'raw'], { input: 'length' })
    await compare(['-f', 'raw', 'raw'], { input: 'foo\n' })
    await compare([], { input: 'open -r raw\nlength\nclose\nlength\n' })
  })

  test('a file of its pattern is written over and over', async () => {
    const files = { pattern: 'abcdefg', empty: '' }
    const commands = each('write -s pattern 0 1k', 'read -v 0 40', 'write -s empty 0 1k', 'write -s pattern 4k 3')
    await compare(['-f', 'raw', ...commands, 'raw'], { files })
  })

  test('what it does not know it refuses by name, with its help', async () => {
    expect(await ours(['-x'], '')).toMatchObject({ status: 1, err: "block86: invalid option -- 'x'\n" })
    expect(await ours(['--bogus'], '')).toMatchObject({ status: 1, err: "block86: unrecognized option '--bogus'\n" })
    expect(await ours(['-T', 'x', 'raw'], '')).toMatchObject({ status: 1, err: expect.stringMatching(/-T/) })
    expect((await ours(['--help'], '')).out).toMatch(/^Usage: block86 io /)
    expect((await ours(['a', 'b'], '')).status).toBe(1)
    expect((await ours(['-V'], '')).out).toBe('block86 io version 0\n')
  })
})

describe.skipIf(lacks('qemu-io', 'qemu-img'))('qcow2', () => {
  test.each([
    [
      each(
        'write 0 4k',
        'write -c 64k 64k',
        'write 128k 128k',
        'write -z 128k 64k',
        'write -z -u 192k 4k',
        'map',
        'info',
        'alloc 0 1M',
        'alloc 64k 1M',
      ),
    ],
    [each('write -P 5 1M 200k', 'discard 1M 64k', 'read -P 0 1M 64k', 'read -P 5 1088k 136k')],
    [
      each(
        'write -P 7 64k 64k',
        'write -c 0 4k',
        'write -c 4M 64k',
        'write -P 1 1000 100000',
        'read -P 7 110000 1000',
        'map',
      ),
    ],
    [
      each(
        'write -b -P 5 0 1k',
        'read -b -P 5 0 1k',
        'read -bv 0 16',
        'write -b -P 6 1M 64k',
        'read -b -P 6 1M 64k',
        'info',
        'map',
      ),
    ],
    [
      each(
        'aio_write -P 3 0 4k',
        'aio_flush',
        'aio_read -P 3 0 4k',
        'aio_flush',
        'aio_write -z 0 64k',
        'aio_flush',
        'read -P 0 0 64k',
      ),
    ],
    [
      each(
        'truncate 8M',
        'length',
        'write -P 1 7M 64k',
        'read -P 0 4M 1M',
        'map',
        'truncate 5000000',
        'length',
        'truncate -m full 6M',
      ),
    ],
    [
      each(
        'write -c -P 1 0 256k',
        'write -P 2 70000 10',
        'read -P 1 0 64k',
        'read -P 2 70000 10',
        'read -P 1 128k 128k',
      ),
    ],
  ])('%j', async (commands) => {
    await compare(['-f', 'qcow2', ...commands, 'qcow2'])
  })

  test.each([
    [each('map', 'read -P 0xb5 0 64k', 'write -P 1 64k 1k', 'read -P 0xb5 66k 1k', 'map', 'alloc 0 4M')],
    [each('write -z 0 64k', 'write -zu 64k 64k', 'map', 'read -P 0 0 128k', 'read -v 128k 16')],
    [each('write -c -P 3 1984k 128k', 'read -P 3 1984k 128k', 'read -P 0 3M 4k', 'map')],
  ])('over a backing file: %j', async (commands) => {
    await compare(['-f', 'qcow2', ...commands, 'over'])
  })
})

describe.skipIf(lacks('qemu-io', 'qemu-img'))('metadata that zeroes and discards leave', () => {
  const kinds = [
    '',
    'extended_l2=on',
    'compat=0.10',
    'cluster_size=4k',
    'BACKED',
    'compat=0.10,BACKED',
    'extended_l2=on,BACKED',
  ]
  const lines = [
    ['write -P 1 0 1M', 'write -z 0 128k', 'write -z 1M 64k'],
    ['write -z -u 0 128k', 'discard 256k 64k', 'write -P 3 3M 64k'],
    ['write -P 1 0 1M', 'discard 0 128k', 'write -z -u 192k 128k', 'discard 512k 100k'],
    ['write -P 1 0 1M', 'write -P 4 8k 64k', 'write -z 4k 128k', 'write -z -u 200k 10k'],
    ['write -z 1984k 64k', 'write -c -P 1 0 64k', 'write -z -u 4k 8k', 'discard 0 64k', 'discard 2M 64k'],
  ]
  /** What `qemu-img map` says after `commands`, by either program, on a new image. */
  async function mapAfter(who: 'theirs' | 'ours', kind: string, commands: readonly string[]): Promise<string> {
    const place = folder.file(who)
    fs.rmSync(place, { recursive: true, force: true })
    fs.mkdirSync(place)
    fs.writeFileSync(`${place}/base`, new Uint8Array(2 << 20).fill(0xb5))
    const options = kind.replace('BACKED', 'backing_file=base,backing_fmt=raw')
    const run = (program: string, args: readonly string[]) => {
      const { status, stdout, stderr } = spawnSync(program, args, { cwd: place, encoding: 'utf8' })
      expect(status, stderr).toBe(0)
      return stdout
    }
    run('qemu-img', ['create', '-q', '-f', 'qcow2', ...(options ? ['-o', options] : []), 'image', '4M'])
    const line = ['-d', 'unmap', '-f', 'qcow2', ...each(...commands), 'image']
    if (who === 'theirs') run('qemu-io', line)
    else {
      process.chdir(place)
      expect(await ours(line, '').finally(() => process.chdir(home))).toMatchObject({ status: 0, err: '' })
    }
    run('qemu-img', ['check', '-q', 'image'])
    return run('qemu-img', ['map', '--output=json', 'image'])
  }

  test.each(kinds)('is as after qemu-io: %s', async (kind) => {
    for (const line of lines) expect(await mapAfter('ours', kind, line)).toBe(await mapAfter('theirs', kind, line))
  })
})

describe.skipIf(lacks('qemu-io', 'qemu-img'))('filters', () => {
  const rules = `
[inject-error]
event = "read_aio"
errno = "28"
once = "on"
sector = "8"

[set-state]
event = "flush_to_disk"
state = "1"
new_state = "2"

[inject-error]
state = "2"
event = "write_aio"
errno = "5"
`
  const metadata = `
[inject-error]
event = "l2_load"
errno = "5"
once = "on"

[inject-error]
event = "cluster_alloc"
errno = "28"
once = "on"
immediately = "on"
`

  test('blkdebug: rules, states, sectors of a configuration file', async () => {
    const files = { 'rules.conf': rules }
    const commands = each('read 0 4k', 'read 4k 4k', 'read 4k 4k', 'write 0 4k', 'flush', 'write 0 4k', 'write 0 4k')
    await compare(['-f', 'raw', ...commands, 'blkdebug:rules.conf:raw'], { files })
    await compare(['-f', 'raw', '-c', 'read 0 4k', 'blkdebug:nofile:raw'])
  })

  test('blkdebug: rules and state outlive a reopen', async () => {
    const failing = '[inject-error]\nevent = "pwritev"\nerrno = "28"\nstate = "2"\niotype = "write"\n'
    const files = { rules: `${failing}[set-state]\nevent = "flush_to_disk"\nstate = "1"\nnew_state = "2"\n` }
    const commands = each('write 0 4k', 'flush', 'write 0 4k', 'reopen -r', 'reopen -w', 'write 0 4k')
    await compare(['-f', 'raw', ...commands, 'blkdebug:rules:raw'], { files })
  })

  test('blkdebug: metadata of qcow2 fails, and what is left is whole', async () => {
    const files = { 'rules.conf': metadata }
    await compare(['-f', 'qcow2', ...each('write -P 1 0 64k', 'write -P 1 0 64k', 'read -P 1 0 64k'), 'qcow2'])
    await compare(['-f', 'qcow2', ...each('read 0 4k', 'read -P 0 0 4k'), 'blkdebug:rules.conf:qcow2'], { files })
  })

  test('blkdebug: breakpoints hold requests', async () => {
    const commands = each(
      ...['break write_aio A', 'aio_write -P 5 0 4k', 'wait_break A', 'read -P 0 64k 512', 'resume A', 'aio_flush'],
      ...['read -P 5 0 4k', 'resume A', 'remove_break A', 'break bogus A', 'break write_aio B', 'remove_break B'],
      ...['write 0 4k'],
    )
    await compare(['-f', 'qcow2', ...commands, 'blkdebug::qcow2'])
    await compare([
      '-f',
      'raw',
      ...each('break pwritev A', 'aio_write 0 4k', 'wait_break A', 'resume A', 'aio_flush'),
      'blkdebug::raw',
    ])
  })

  test.each([
    'json:{"driver":"raw","file":{"driver":"blkdebug","image":{"driver":"file","filename":"raw"},"inject-error":[{"event":"pwritev","errno":28,"once":true}]}}',
    'json:{"driver":"blkdebug","image":{"driver":"file","filename":"raw"},"inject-error":[{"event":"none","iotype":"read","errno":12}]}',
    'json:{"driver":"null-co","size":65536,"read-zeroes":true}',
    'null-co://',
  ])('%s', async (name) => {
    await compare([...each('write 0 4k', 'write 4k 4k', 'read 0 8k', 'length'), name])
  })

  test.each([
    'driver=blkdebug,image.driver=file,image.filename=raw,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=12',
    'driver=qcow2,file.driver=blkdebug,file.image.filename=qcow2,file.inject-error.0.event=write_aio,file.inject-error.0.errno=27,file.inject-error.0.once=on',
    'driver=raw,offset=64k,size=1M,file.filename=raw',
    'driver=copy-on-read,file.driver=qcow2,file.file.filename=over',
    'driver=blkverify,raw.driver=file,raw.filename=raw,test.driver=qcow2,test.file.filename=qcow2',
    'driver=null-co,size=1M',
    'driver=throttle,file.driver=file,file.filename=raw',
    'driver=throttle,throttle-group=none,file.driver=file,file.filename=raw',
  ])('%s', async (node) => {
    const commands = each('write -P 4 0 4k', 'read -P 4 0 4k', 'flush', 'write -P 1 64k 4k', 'length')
    await compare([...commands, '--image-opts', node], { files: { log: '' } })
  })

  test.each([
    ['driver=qcow2,detect-zeroes=on,file.filename=qcow2', ['write -P 1 0 64k', 'write -P 0 0 64k', 'read -P 0 0 64k']],
    ['driver=raw,discard=ignore,file.filename=raw', ['write -P 1 0 64k', 'discard 0 64k', 'read -P 1 0 64k']],
    ['driver=raw,discard=unmap,file.filename=raw', ['write -P 1 0 64k', 'discard 0 64k', 'read -P 0 0 64k']],
    ['driver=raw,file.driver=file,file.filename=raw,read-only=on', ['write -P 1 0 64k', 'read -P 0 0 64k']],
    ['driver=raw,file.filename=raw,detect-zeroes=maybe', ['length']],
    ['driver=raw,file.filename=raw,discard=maybe', ['length']],
  ])('modes of a node: %s', async (node, commands) => {
    await compare([...each(...commands), '--image-opts', node])
  })

  test('throttle takes its limits from a group', async () => {
    const group = 'throttle-group,id=tg,limits.iops-total=1000'
    const node = 'driver=throttle,throttle-group=tg,file.driver=file,file.filename=raw'
    await compare(['--object', group, ...each('write 0 4k', 'read 0 4k', 'info'), '--image-opts', node])
    await compare([
      '--object',
      'throttle-group,id=tg,x-bps-write=1000000',
      ...each('write 0 64k'),
      '--image-opts',
      node,
    ])
  })

  test('blkverify ends the program where its images differ', async () => {
    const other = new Uint8Array(4 << 20)
    other.fill(9, 1000, 1512)
    await compare(['-f', 'raw', ...each('read 4k 4k', 'read 0 4k', 'read 0 512'), 'blkverify:raw:other'], {
      files: { other },
    })
    await compare(['-f', 'qcow2', ...each('write -P 7 0 4k', 'read -P 7 0 4k'), 'blkverify:raw:qcow2'])
  })

  test('blklogwrites: the same log, entry by entry', async () => {
    const node = 'driver=blklogwrites,file.driver=file,file.filename=raw,log.driver=file,log.filename=log'
    const commands = each('write -P 1 0 4k', 'discard 4k 4k', 'flush', 'write -P 2 8k 512', 'write -z 64k 4k', 'flush')
    await compare([...commands, '--image-opts', node], { files: { log: '' }, except: ['log'] })
    const [theirs, ours] = ['theirs', 'ours'].map((name) => logged(fs.readFileSync(`${folder.file(name)}/log`)))
    expect(ours).toEqual(theirs)
    expect(ours).toHaveLength(6)
  })
})

/** What a dm-log-writes log has; what is only flushed again at its end is left out. */
function logged(log: Buffer): string[] {
  const entries: string[] = []
  expect(log.readBigUInt64LE(0)).toBe(0x6a736677736872n)
  const unit = log.readUInt32LE(24)
  for (let at = unit, left = Number(log.readBigUInt64LE(16)); left > 0; left--) {
    const [sector, count, flags] = [0, 8, 16].map((field) => Number(log.readBigUInt64LE(at + field)))
    const length = flags! & 4 ? 0 : count! * unit
    entries.push(`${sector} ${count} ${flags} ${log.subarray(at + unit, at + unit + length).toString('latin1')}`)
    at += unit + length
  }
  while (entries.at(-1) === '0 0 1 ' && entries.at(-2) === '0 0 1 ') entries.pop()
  return entries
}
