"""MQTT with mutual TLS, on paho."""

from tinyfleet_service.mqtt.client import Message, MqttClient, tls_context

__all__ = ["Message", "MqttClient", "tls_context"]
