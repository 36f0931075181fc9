// What both ends of the gRPC specs agree on. Messages are bytes: a line of JSON that says what is wanted, then payload.
import { createRequire } from "node:module";

// MODULES: the folder that has node_modules/@grpc/grpc-js
export const grpc = createRequire(process.env.MODULES + "/")("@grpc/grpc-js");

const bytes = (b) => b;
const method = (name, requestStream, responseStream) => ({
  path: "/echo.Test/" + name, requestStream, responseStream,
  requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes,
});
export const service = {
  EmptyCall: method("EmptyCall", false, false),
  UnaryCall: method("UnaryCall", false, false),
  StreamingInput: method("StreamingInput", true, false),
  StreamingOutput: method("StreamingOutput", false, true),
  FullDuplex: method("FullDuplex", true, true),
  Stats: method("Stats", false, false),
};

export const encode = (wish, payload = 0) => Buffer.concat([Buffer.from(JSON.stringify(wish) + "\n"), Buffer.alloc(payload, "p")]);
export const decode = (message) => {
  const end = message.indexOf(10);
  return { ...JSON.parse(message.subarray(0, end).toString()), payload: message.length - end - 1 };
};
