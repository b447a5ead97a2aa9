// What Node's users use: sqs-consumer, which receives ten, calls a handler with them, and deletes them in one call.
// Arguments: the endpoint, the queue's URL, and the concurrency: as many consumers as it takes, ten steps each.

import { SageMakerClient, SendPipelineExecutionStepSuccessCommand } from "@aws-sdk/client-sagemaker";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const [endpoint, queueUrl, concurrency] = process.argv.slice(2);
const sqs = new SQSClient({ endpoint });
const sagemaker = new SageMakerClient({ endpoint });

async function answer(message) {
  const { token } = JSON.parse(message.Body);
  const input = { CallbackToken: token, ClientRequestToken: token.padStart(32, "0") };
  await sagemaker.send(new SendPipelineExecutionStepSuccessCommand(input));
}

for (let at = 0; at < concurrency; at += 10) {
  const handleMessageBatch = async (messages) => {
    await Promise.all(messages.map(answer));
    return messages;
  };
  const consumer = Consumer.create({ queueUrl, sqs, batchSize: 10, waitTimeSeconds: 20, handleMessageBatch });
  consumer.on("error", (error) => console.error(error));
  consumer.start();
}
