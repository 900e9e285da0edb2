/** `block86 img resize`: changes the size of a disk. */
import { errnoOf, messageOf } from '../../block/error.ts'
import { preallocate } from '../../block/formats/qcow2/amend.ts'
import { zeroVec } from '../../block/iovec.ts'
import type { ImageDevice } from '../../block/mover.ts'
import { onLastWord, parse } from './arguments.ts'
import { type Console, Failure, misuse, printer, report } from './console.ts'
import { optionSize } from './format-options.ts'
import { type Opened, openGiven } from './open.ts'
import { strerror } from './reasons.ts'

const USAGE = `usage: block86 img resize [--object OBJECTDEF] [--image-opts] [-f FMT] [--preallocation=PREALLOC] [-q] [--shrink] FILENAME [+ | -]SIZE

  -f FMT                    format of the image (default: guessed)
  --preallocation=PREALLOC  how space is given to what is new: off, metadata, falloc, full
  --shrink                  allow the disk to become smaller
  -q                        print errors alone
`

const MODES = ['off', 'metadata', 'falloc', 'full']

/** Runs the verb. */
export async function resize(argv: readonly string[], console: Console): Promise<number> {
  if (argv.length === 0) throw misuse('Not enough arguments')
  // The size may begin with a minus, and is no option then.
  const { rest, last } = onLastWord(argv)
  const args = parse(
    rest,
    [
      { short: 'f', long: 'format', value: true },
      { long: 'preallocation', value: true },
      { short: 'q', long: 'quiet' },
      { long: 'shrink' },
    ],
    USAGE,
    console,
  )
  if (argv.length < 2) throw misuse('Not enough arguments')
  const mode = args.last('preallocation') ?? 'off'
  if (!MODES.includes(mode)) throw new Failure(`Invalid preallocation mode '${mode}'`)
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting image file name and size')
  const relative = /^[+-]/.exec(last)?.[0]
  const amount = optionSize(relative === undefined ? last : last.slice(1), 'size')
  const print = printer(console, args.has('quiet'))
  const opened = await openGiven(console, name, args.last('format'), { readOnly: false }, args.has('image-opts'))
  try {
    const before = opened.device.size
    const wanted = relative === undefined ? amount : before + (relative === '+' ? amount : -amount)
    const grows = wanted > before
    if (wanted <= 0) throw new Failure('New image size must be positive')
    if (!grows && mode !== 'off') throw new Failure('Preallocation can only be used for growing images')
    if (wanted < before && !args.has('shrink')) {
      report(console, 'Use the --shrink option to perform a shrink operation.')
      console.err.write(
        "block86: warning: Shrinking an image will delete all data beyond the shrunken image's end. " +
          'Before performing such an operation, make sure there is no important data there.\n',
      )
      return 1
    }
    await changeSize(opened, wanted, mode)
    await opened.device.flush()
    print('Image resized.\n')
  } finally {
    await opened.close()
  }
  return 0
}

/** Changes the size of an open image; throws in qemu-img's words. */
export async function changeSize(opened: Opened, wanted: number, mode: string): Promise<void> {
  const { device, format } = opened
  const before = device.size
  if (format === 'qed' && wanted < before) throw new Failure('Shrinking images is currently not supported')
  if (format !== 'qcow2' && format !== 'raw' && mode !== 'off')
    throw new Failure(`Unsupported preallocation mode '${mode}'`)
  if (format === 'raw' && mode === 'metadata') throw new Failure('Unsupported preallocation mode: metadata')
  try {
    const size = format === 'raw' ? wanted : Math.ceil(wanted / 512) * 512
    if (format === 'qcow2' && wanted % 512 !== 0) throw new Failure('The new size must be a multiple of 512')
    await device.resize(size)
    if (mode === 'off') return
    if (format === 'qcow2') {
      await preallocate(device.driver as ImageDevice, mode as 'metadata' | 'falloc' | 'full', before)
    } else if (mode === 'falloc') await device.zero(before, wanted - before)
    else {
      const step = 1 << 20
      for (let at = before; at < wanted; at += step) await device.write(at, zeroVec(Math.min(step, wanted - at)))
    }
  } catch (error) {
    if (error instanceof Failure) throw error
    if (errnoOf(error) === 'ENOTSUP') throw new Failure('Image format driver does not support resize')
    throw new Failure(`Failed to resize underlying file: ${strerror(error)} (${messageOf(error)})`)
  }
}
