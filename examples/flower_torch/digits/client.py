"""The app of a node."""

from fedjax_compression import eden
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedjax_llm.flower import compression_mod

from . import task

app = ClientApp(mods=[compression_mod(eden(bits=2))])


@app.train()
def train(message, context):
    """An epoch on this node's images."""
    seed, node = context.run_config["seed"], context.node_config["partition-id"]
    net = task.model(seed)
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    pixels, labels = task.training_images(node)
    number = message.content["config"]["server-round"]
    task.train(net, pixels, labels, seed=1000 * seed + number)
    content = {
        "arrays": ArrayRecord(net.state_dict()),
        "metrics": MetricRecord({"num-examples": len(labels)}),
    }
    return Message(RecordDict(content), reply_to=message)
