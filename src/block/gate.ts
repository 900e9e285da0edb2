/** The gate: the only way by which an image gets at files that it names itself. */
import type { BlockDevice } from './device.ts'
import { BlockError } from './error.ts'

/** What an image wants another file for. */
export type Purpose = 'backing file' | 'data file' | 'extent'

export interface GateRequest {
  readonly purpose: Purpose
  /** Its format as the image names it; without one it is refused, unless the user had the image's own format guessed. */
  readonly format?: string
  readonly readOnly: boolean
}

/** Opens, makes or refuses what an image names. */
export interface Gate {
  open(name: string, request: GateRequest): Promise<BlockDevice>
  /** Makes a new empty file beside the image, for formats of several files. */
  create(name: string): Promise<BlockDevice>
}

/** A gate that refuses everything: for images that must stand alone. */
export const closedGate: Gate = {
  open: (name, request) =>
    Promise.reject(new BlockError('EPERM', `Cannot open ${request.purpose} ${name}: the image may open no other file`)),
  create: (name) => Promise.reject(new BlockError('EPERM', `Cannot create ${name}: the image may make no other file`)),
}

/** Which names pass: those below the folder of the image that names them, all, none, or as the function says. */
export type GatePolicy = 'below' | 'any' | 'none' | ((name: string, purpose: Purpose) => boolean)

/** What {@link makeGate} asks of whoever knows files. */
export interface GateRules {
  readonly policy: GatePolicy
  /** The image whose gate it is. */
  readonly image: string
  /** The images that led here, this one last; a name that comes again is a loop. */
  readonly chain: readonly string[]
  /** The full name of what an image calls `name`, relative to the image's own place. */
  resolve(name: string): string
  /** Whether the full name is below the image's own folder, links followed. */
  isBelow(name: string): Promise<boolean>
  open(name: string, request: GateRequest, chain: readonly string[]): Promise<BlockDevice>
  create(name: string): Promise<BlockDevice>
}

/** Longest chain of images over images. */
export const CHAIN_LIMIT = 128

/** The gate of one image. */
export function makeGate(rules: GateRules): Gate {
  const pass = async (name: string, purpose: Purpose, doing: string): Promise<string> => {
    const full = rules.resolve(name)
    const { policy } = rules
    const passes =
      typeof policy === 'function'
        ? policy(full, purpose)
        : policy === 'any' || (policy === 'below' && (await rules.isBelow(full)))
    if (passes) return full
    throw new BlockError(
      'EPERM',
      `${doing}: ${rules.image} names ${full} as its ${purpose}, which is ` +
        `${policy === 'below' ? "not below the image's own folder" : 'not allowed'}; if that is meant, open the image with gate: 'any'`,
    )
  }
  return {
    async open(name, request) {
      const doing = `Cannot open the ${request.purpose} of ${rules.image}`
      const full = await pass(name, request.purpose, doing)
      if (rules.chain.includes(full)) throw new BlockError('EINVAL', `${doing}: ${full} leads back to itself`)
      if (rules.chain.length >= CHAIN_LIMIT) {
        throw new BlockError('EINVAL', `${doing}: the chain of images is longer than ${CHAIN_LIMIT}`)
      }
      return rules.open(full, request, [...rules.chain, full])
    },
    async create(name) {
      return rules.create(await pass(name, 'extent', `Cannot create ${name}`))
    },
  }
}
