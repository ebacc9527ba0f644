export { stopAll as default } from './postgres.ts'
