import type { Reference, Route } from '../route.ts'
import { attachments } from './attachments.ts'
import { audit } from './audit.ts'
import { auth } from './auth.ts'
import { kinds } from './kinds.ts'
import { notifications } from './notifications.ts'
import { people } from './people.ts'
import { requests } from './requests.ts'

/** The routes of a kind of resource. */
export interface Resource {
  readonly name: string
  readonly description: string
  readonly routes: readonly Route[]
}

export const makeResources = (reference: Reference): readonly Resource[] => [
  { name: 'Authentication', description: "Logging in by token or by cookie, one's own sessions and password.", routes: auth },
  { name: 'Requests', description: 'What somebody asks approval for.', routes: requests(reference) },
  { name: 'Kinds', description: 'What a request can be.', routes: kinds },
  { name: 'Attachments', description: 'The files that belong to requests.', routes: attachments },
  { name: 'Audit', description: 'Who did what, to what, when and from where.', routes: audit(reference) },
  { name: 'People', description: 'Who may ask and who may decide.', routes: people(reference) },
  { name: 'Notifications', description: 'What one was told, and how one wants to be told by mail.', routes: notifications },
]
