/** RFC 3339 in the whole of its grammar, with a leap second; and shorter, where without an offset it is UTC. */
const INSTANT_FORM =
  /^(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))(?:[T ]((?:[01]\d|2[0-3]):[0-5]\d)(:(?:[0-5]\d|60)(?:\.\d+)?)?(?:Z|([+-])([01]\d|2[0-3]):?([0-5]\d))?)?$/i

/** Has the text this form, and a day that is in the calendar? A "+" that was not encoded arrives as a blank, and has not. */
export function isInstant(text: string): boolean {
  const [, day] = INSTANT_FORM.exec(text) ?? []
  return day !== undefined && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day)
}

/** Of a longer fraction nothing is left: PostgreSQL rounds to the microsecond, and refuses a text over 128 bytes. */
const MAX_SECONDS = ':00.000000000000'.length

/** An instant in UTC as PostgreSQL reads it, which knows no offsets over 15 hours and no year 0. */
export function toTimestamp(instant: string): string {
  const [, day, time = '00:00', seconds = '', sign, hours, minutes] = INSTANT_FORM.exec(instant)!
  const offset = (Number(hours ?? 0) * 60 + Number(minutes ?? 0)) * (sign === '-' ? -1 : 1)
  const utc = new Date(Date.parse(`${day}T${time}:00Z`) - offset * 60_000)
  const year = utc.getUTCFullYear()
  // Within a leap second it has no fractions.
  const precise = seconds.startsWith(':60') ? ':60' : seconds.slice(0, MAX_SECONDS)
  const [, rest] = /-(\d\d-\d\dT\d\d:\d\d)/.exec(utc.toISOString())!
  return `${String(year > 0 ? year : 1 - year).padStart(4, '0')}-${rest}${precise}+00${year > 0 ? '' : ' BC'}`
}
