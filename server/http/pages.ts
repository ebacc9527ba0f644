/** Rows on a page of a list, unless the caller says how many. */
export const PAGE_SIZE = 20
export const MAX_PAGE_SIZE = 100
/** Rows are counted as far as this, and one more stands for all others: to count them would cost more as tables grow. */
export const MOST_COUNTED = 10_000
