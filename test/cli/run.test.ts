/** The command line of `block86 run`, and its terminal. */
import { describe, expect, test } from 'vitest'
import { parseRun } from '../../src/cli/run.ts'

describe('block86 run', () => {
  test('takes what people type for QEMU', () => {
    const request = parseRun(
      '-m 512 -drive file=a.img,format=raw,if=virtio,bootindex=1 -drive file=b.img,format=raw -nographic -bios seabios.bin'.split(
        ' ',
      ),
    )
    expect(request).toMatchObject({ memory: 512, bios: 'seabios.bin', acpi: false, help: false })
    expect(request.drives.map(({ file, bootindex }) => [file, bootindex])).toEqual([
      ['a.img', 1],
      ['b.img', undefined],
    ])
  })

  test.each([
    [[], 256],
    [['-m', '64'], 64],
    [['-m', '1G'], 1024],
    [['-m', 'size=128M'], 128],
  ])('%j is %d MiB', (argv, memory) => {
    expect(parseRun(argv).memory).toBe(memory)
  })

  test('boots a kernel', () => {
    expect(parseRun(['-kernel', 'k', '-initrd', 'i', '-append', 'root=/dev/vda1 ro'])).toMatchObject({
      kernel: 'k',
      initrd: 'i',
      append: 'root=/dev/vda1 ro',
    })
  })

  test('-snapshot holds for every drive that could be written and does not say otherwise', () => {
    const { drives } = parseRun(
      '-snapshot -drive file=a -drive file=b,snapshot=off -drive file=c,readonly=on -cdrom d'.split(' '),
    )
    expect(drives.map(({ open }) => open.snapshot)).toEqual([true, false, undefined, undefined])
  })

  test('-cdrom is a disc in an IDE drive', () => {
    expect(parseRun(['-cdrom', 'a,b.iso']).drives).toMatchObject([{ file: 'a,b.iso', if: 'ide', media: 'cdrom' }])
  })

  test.each([
    [['debian.img'], "'debian.img' is no option; a disk is given as -drive file=debian.img,format=raw"],
    [['-hda', 'x'], "unknown option '-hda'"],
    [['-m'], "option '-m' needs a value"],
    [['-m', '4G'], "-m is '4G', must be a size from 1M to 2047M"],
    [['-m', 'lots'], "-m is 'lots'"],
    [['-initrd', 'x'], '-initrd needs -kernel'],
    [['-machine', 'q35'], "-machine is 'q35', must be acpi=on or acpi=off"],
  ])('%j: %s', (argv, message) => {
    expect(() => parseRun(argv)).toThrow(message)
  })
})
