import type { List } from '../lists.ts'
import { get, getList, type Reference, type Route } from '../route.ts'
import { INSTANT, oneOf, UUID } from '../schemas.ts'
import { pageOfRequest } from './requests.ts'

export function audit({ actions }: Reference): readonly Route[] {
  const auditLogs: List = {
    from: 'app_hidden.audit_log_documents d',
    document: 'd.document',
    orderings: { '-timestamp': 'd.timestamp', timestamp: 'd.timestamp' },
    filters: {
      actor_id: { schema: UUID, where: (value) => `d.actor_id = ${value}::uuid` },
      action: { schema: oneOf(actions), where: (value) => `d.action = ${value}` },
      request_id: { schema: UUID, where: (value) => `d.request_id = ${value}::uuid` },
      since: { schema: INSTANT, where: (value) => `d.timestamp >= ${value}::timestamptz`, description: 'At or after this time.' },
      until: { schema: INSTANT, where: (value) => `d.timestamp < ${value}::timestamptz`, description: 'Before this time.' },
    },
  }
  return [
    get('/requests/:id/audit-logs/', 'What was done to a request, newest first', {
      list: auditLogs,
      shows: 'AuditLog',
      run: pageOfRequest(auditLogs),
    }),
    getList('/audit-logs/', 'The audit entries that the caller may see, newest first', 'AuditLog', auditLogs),
  ]
}
