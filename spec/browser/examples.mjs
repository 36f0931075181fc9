export async function examples() { return 0; }
