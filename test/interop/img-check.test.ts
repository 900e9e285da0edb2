/** `check` of damaged images prints, mends and leaves alone what qemu-img's does. */
import { describe } from 'vitest'
import { lacks } from '../tools.ts'
import { scenario } from './img-golden.ts'

// Where things are in a new image with 64 KiB clusters.
const L1 = 0x30000
const L2 = 0x40000
const TABLE = 0x10000
const BLOCK = 0x20000
const COPIED = 1n << 63n

type Change = readonly [at: number, value: bigint, bytes?: number]

/** Shell commands that copy an image and change words of the copy. */
function damaged(from: string, to: string, ...changes: readonly Change[]): string {
  const puts = changes.map(([at, value, bytes = 8]) => {
    const octal = value
      .toString(16)
      .padStart(bytes * 2, '0')
      .replace(/../g, (byte) => `\\${Number.parseInt(byte, 16).toString(8).padStart(3, '0')}`)
    return `printf '${octal}' | dd of=${to} bs=1 seek=${at} conv=notrunc status=none`
  })
  return [`cp ${from} ${to}`, ...puts].join('\n')
}

const PLAIN = `qemu-img create -q -f qcow2 p.qcow2 64M
  qemu-io -f qcow2 -c 'write -P 1 0 200k' -c 'write -P 2 1M 300k' -c 'write -c -P 3 4M 64k' -c 'write -z 8M 64k' p.qcow2 > /dev/null
  cp p.qcow2 s.qcow2; qemu-img snapshot -c s1 s.qcow2
  qemu-img create -q -f qcow2 -o extended_l2=on e.qcow2 64M
  qemu-io -f qcow2 -c 'write -P 1 0 200k' -c 'write -P 1 1M 10k' e.qcow2 > /dev/null
  qemu-img create -q -f qcow2 -o data_file=d.raw f.qcow2 64M; qemu-io -f qcow2 -c 'write -P 1 0 200k' f.qcow2 > /dev/null
  qemu-img create -q -f qcow2 -o refcount_bits=1 one.qcow2 64M; qemu-io -f qcow2 -c 'write 0 200k' one.qcow2 > /dev/null
  qemu-img create -q -f qcow2 two.qcow2 2G; qemu-io -f qcow2 -c 'write 0 128k' -c 'write 1G 64k' two.qcow2 > /dev/null`

const IN_PLACE: Record<string, string> = {
  leak: damaged('p.qcow2', 'leak', [BLOCK + 10, 2n, 2]),
  flagless: damaged('p.qcow2', 'flagless', [L2, 0x50000n], [L1, 0x40000n]),
  'leak-flagless': damaged('p.qcow2', 'leak-flagless', [BLOCK + 10, 2n, 2], [L2, 0x50000n], [L2 + 8, 0x60000n]),
  shared: damaged('p.qcow2', 'shared', [L2 + 8, COPIED | 0x50000n]),
  'shared-flagless': damaged('p.qcow2', 'shared-flagless', [L2 + 8, 0x50000n]),
  'over-table': damaged('p.qcow2', 'over-table', [L2 + 8, COPIED | 0x10000n]),
  preallocated: damaged('p.qcow2', 'preallocated', [L2, COPIED | 0x60201n]),
  'copied-snapshot': damaged('s.qcow2', 'copied-snapshot', [L2, COPIED | 0x50000n], [L1, COPIED | 0x40000n]),
  'dirty-leak': damaged('p.qcow2', 'dirty-leak', [BLOCK + 10, 2n, 2], [72, 1n]),
  'corrupt-mark': damaged('p.qcow2', 'corrupt-mark', [72, 2n]),
  'data-file-flag': damaged('f.qcow2', 'data-file-flag', [L2 + 8, 0x10000n]),
  'counts-after-end': damaged('p.qcow2', 'counts-after-end', [BLOCK + 80, 1n, 2]),
}

const LEFT: Record<string, string> = {
  beyond: damaged('s.qcow2', 'beyond', [L2 + 8, 0x8000000000n]),
  'table-beyond': damaged('s.qcow2', 'table-beyond', [L1, 0x8000000000n]),
  misaligned: damaged('s.qcow2', 'misaligned', [L2 + 8, 0x60200n]),
  'packed-beyond': damaged('s.qcow2', 'packed-beyond', [L2 + 512, (1n << 62n) | 0x9000000000n]),
  'packed-copied': damaged('p.qcow2', 'packed-copied', [L2 + 512, 0xc0n, 1]),
  'reserved-l1': damaged('s.qcow2', 'reserved-l1', [L1, 0x40001n]),
  'reserved-l2': damaged('s.qcow2', 'reserved-l2', [L2, 0x0100000000050000n]),
  'subclusters-both': damaged('e.qcow2', 'subclusters-both', [L2 + 8, 0xffn, 1]),
  'subclusters-none': damaged('e.qcow2', 'subclusters-none', [L2 + 3212, 0xffn, 1]),
  'subclusters-misaligned': damaged('e.qcow2', 'subclusters-misaligned', [L2, COPIED | 0x50200n]),
  'packed-data-file': damaged('f.qcow2', 'packed-data-file', [L2, (1n << 62n) | 0x50000n]),
  overflow: damaged('one.qcow2', 'overflow', [L2 + 8, COPIED | 0x50000n], [L2 + 16, COPIED | 0x50000n]),
  'table-twice': damaged('two.qcow2', 'table-twice', [L1 + 16, COPIED | 0x40000n], [L2, COPIED | 0x50200n]),
  truncated: `${damaged('p.qcow2', 'truncated')}\ntruncate -s 700000 truncated`,
}

const REBUILT: Record<string, string> = {
  'count-0': damaged('p.qcow2', 'count-0', [BLOCK + 10, 0n, 2]),
  'dirty-count-0': damaged('p.qcow2', 'dirty-count-0', [BLOCK + 10, 0n, 2], [72, 3n]),
  'block-twice': damaged('s.qcow2', 'block-twice', [TABLE + 8, 0x20000n]),
  'block-over-l1': damaged('p.qcow2', 'block-over-l1', [TABLE + 8, 0x30000n]),
  'counts-lost': damaged('s.qcow2', 'counts-lost', [BLOCK, 0n]),
}

describe.skipIf(lacks('qemu-img', 'qemu-io'))('img check', () => {
  for (const [title, images] of [
    ['what is mended in place', IN_PLACE],
    ['what is left alone', LEFT],
    ['what needs a new refcount structure', REBUILT],
  ] as const) {
    const names = Object.keys(images)
    const all = [
      PLAIN,
      ...Object.values(images),
      ...names.map((name) => `cp ${name} ${name}.all; cp ${name} ${name}.json`),
    ]
    scenario({
      title,
      given: all.join('\n'),
      run: names.flatMap((name) => [
        `check ${name}`,
        `check --output=json ${name}`,
        `check -r leaks ${name}`,
        `check ${name}`,
        `check -r all ${name}.all`,
        `check ${name}.all`,
        `check -r all --output=json ${name}.json`,
      ]),
      // What is left alone is still corrupt: it cannot be compared by reading it.
      except: ['d.raw', ...names.flatMap((name) => (images === LEFT ? [name, `${name}.all`, `${name}.json`] : [name]))],
      placed: false,
    })
  }
})
