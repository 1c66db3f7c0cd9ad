"""MQTT with mutual TLS: paho for control paths, connections of our own where each message counts."""

from tinyfleet_service.mqtt.client import Message, MqttClient, tls_context
from tinyfleet_service.mqtt.connection import Broker, Connection
from tinyfleet_service.mqtt.publisher import Publisher

__all__ = ["Broker", "Connection", "Message", "MqttClient", "Publisher", "tls_context"]
