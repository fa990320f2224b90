// Rows of the tables of views, which may contain anything.

export const isRow = (row) => row !== null && typeof row === "object";

/** Rows as of now: a field of them grows, or falls, by the seconds since they were answered. */
export function aged(rows, field, by) {
  return rows.map((row) => (typeof row[field] === "number" ? { ...row, [field]: row[field] + by } : row));
}

/** Items in the order in which they were seen first, so that none moves while somebody reads; new ones come last. */
export function inOrder(places, items, keyOf) {
  const place = (item) => places.get(keyOf(item)) ?? places.size;
  const sorted = [...items].sort((a, b) => place(a) - place(b));
  places.clear();
  sorted.forEach((item, at) => places.set(keyOf(item), at));
  return sorted;
}
