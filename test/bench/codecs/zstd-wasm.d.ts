declare module '@bokuweb/zstd-wasm' {
  export function init(path?: string): Promise<void>
  export function compress(bytes: Uint8Array, level?: number): Uint8Array
}
