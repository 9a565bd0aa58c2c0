// What the package declares, held against what its sources are.
import type * as declared from "../../web/src/index.js";
import * as actual from "../../web/src/pocketnet.js";

export const open: typeof declared.PocketNet.open = actual.PocketNet.open;
export const compare: typeof declared.compare = actual.compare;
export const error: typeof declared.PocketNetError = actual.PocketNetError;
